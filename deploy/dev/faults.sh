# shellcheck shell=bash
# Faults that are put in on purpose, one at a time, into a copy of this tree: each must turn the tests red that it names.

faults_usage() {
    cat <<'TEXT'
Usage: ./dev faults [NAME]

Puts each fault of tests/faults (or the one of that name) into a copy of this tree below .dev/faults, builds, and runs the
tests that the patch names in its lines `Red: TEST` (end to end) or `Red PACKAGE: TEST`. Each must fail; one that stays green is
told, and the exit code is 1.
TEXT
}

cmd_faults() {
    local patch name package test green=()
    [[ ${1:-} != --help ]] || { faults_usage && return; }
    (($# <= 1)) || die "faults takes one name at most; see ./dev faults --help"
    [[ -e tests/faults/${1:-} || -e tests/faults/${1:-}.patch ]] || die "there is no tests/faults/$1.patch"
    instance_use test
    require_programs build services python kcat
    instance_lock
    test_services_up
    FAULTS="$STATE/faults"
    mkdir -p "$FAULTS"
    for patch in tests/faults/${1:-*}.patch; do
        name=$(basename "$patch" .patch)
        faults_tree
        # No repository above the copy, else git would leave out what is not below the folder it is called in.
        GIT_CEILING_DIRECTORIES="$FAULTS" git -C "$FAULTS/tree" apply "$ROOT/$patch" || die "$patch no longer fits: the code has changed"
        say "$name: building"
        faults_cargo tests --no-run >"$FAULTS/$name.log" 2>&1 || die "$name does not build; see .dev/faults/$name.log"
        while read -r package test; do
            if faults_cargo "$package" -- --exact "$test" >>"$FAULTS/$name.log" 2>&1; then
                say "$name: $test stays GREEN"
                green+=("$name: $test")
            elif grep -q "^test $test .*FAILED" "$FAULTS/$name.log"; then
                say "$name: $test is red"
            else
                die "$name: $test did not run; see .dev/faults/$name.log"
            fi
        done < <(sed -nE 's/^Red: /tests /p; s/^Red ([a-z]+): /\1 /p' "$patch")
    done
    ((${#green[@]} == 0)) || die "faults that a test does not see: ${green[*]}"
}

# What is in the tree now, committed or not. A file is written only where it differs, so that little is built anew.
faults_tree() {
    local file
    mkdir -p "$FAULTS/tree"
    while IFS= read -r -d '' file; do
        [[ -e $file ]] && ! cmp -s "$file" "$FAULTS/tree/$file" || continue
        mkdir -p "$FAULTS/tree/$(dirname "$file")"
        cp "$file" "$FAULTS/tree/$file"
    done < <(git ls-files -z --cached --others --exclude-standard)
    # What a patch has added.
    comm -z -13 <(git ls-files -z --cached --others --exclude-standard | sort -z) \
        <(find "$FAULTS/tree" -type f -printf '%P\0' | sort -z) | (cd "$FAULTS/tree" && xargs -0 -r rm -f --)
}

faults_cargo() {
    local package=$1 target=(--lib)
    shift
    [[ $package != tests ]] || target=(--test e2e)
    run_child env -C "$FAULTS/tree" CARGO_TARGET_DIR="$FAULTS/target" DEV_CALL="$CALL_ID" \
        cargo test -p "$package" "${target[@]}" "$@"
}
