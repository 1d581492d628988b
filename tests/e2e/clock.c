/* A clock that can be moved: preloaded into a test's own PostgreSQL and its processes, so that midnight comes when the
   test is ready. Only what tells the date is moved; what measures how long something takes is left alone. Unlike
   libfaketime it is right within signal handlers too, where PostgreSQL looks whether a time-out has come. */

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const long none;
/* In a file that all of them map: the seconds by which the clock is ahead. */
static volatile const long *ahead = &none;
/* By how much this process's clock differs from the others'. */
static long skew;

__attribute__((constructor)) static void read_settings(void) {
    const char *file = getenv("TEST_CLOCK"), *text = getenv("TEST_CLOCK_SKEW");
    if (text != NULL) skew = atol(text);
    if (file == NULL) return;
    int handle = open(file, O_RDONLY | O_CLOEXEC);
    void *mapped = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, handle, 0);
    if (mapped != MAP_FAILED) ahead = mapped;
    close(handle);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    if (failed == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead + skew;
    return (int)failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return -1;
    if (now != NULL) *now = exact.tv_sec;
    return exact.tv_sec;
}
