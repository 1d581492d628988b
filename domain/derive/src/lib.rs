//! `#[derive(Event)]`: names, schema versions, JSON schemas and payload codec of an event enum.
//!
//! ```ignore
//! #[derive(Clone, Debug, PartialEq, Event)]
//! #[event(prefix = "customer")]
//! pub enum CustomerEvent {
//!     /// The customer is known from here on.
//!     Created { name: Option<Personal<String, Profile>> },
//!     /// Stored in its second version; what stands in the log in the first is made so when it is read.
//!     #[event(version = 2, upcast(1 = renamed_in_full))]
//!     Renamed { name: String },
//! }
//! ```
//! `Created` is stored as `customer.created` in version 1. Fields may carry serde's and schemars' attributes. An upcaster
//! is a `fn(Payload) -> Payload` that makes the payload of one version that of the next; every version before the newest
//! has one, and its schema in `schemas/`.

use std::collections::BTreeMap;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{format_ident, quote};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{
    Attribute, Data, DeriveInput, Expr, ExprLit, Fields, Ident, Lit, LitInt, LitStr, Meta, Path, Token, Variant,
};

/// See the crate's documentation.
#[proc_macro_derive(Event, attributes(event, serde, schemars))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// What one variant contributes to the implementation.
struct Parts {
    structure: Tokens,
    entry: Tokens,
    to_type: Tokens,
    to_payload: Tokens,
    from_payload: Tokens,
    /// Empty where there is no earlier version.
    from_earlier: Tokens,
}

fn expand(input: &DeriveInput) -> syn::Result<Tokens> {
    let Data::Enum(data) = &input.data else {
        return Err(syn::Error::new_spanned(input, "Event can be derived for enums alone"));
    };
    let prefix = prefix(input)?;
    let name = &input.ident;
    let parts = data.variants.iter().enumerate().map(|(index, variant)| part(name, &prefix, index, variant));
    let parts = parts.collect::<syn::Result<Vec<_>>>()?;
    let structures = parts.iter().map(|part| &part.structure);
    let entries = parts.iter().map(|part| &part.entry);
    let to_type = parts.iter().map(|part| &part.to_type);
    let to_payload = parts.iter().map(|part| &part.to_payload);
    let from_payload = parts.iter().map(|part| &part.from_payload);
    let from_earlier = parts.iter().map(|part| &part.from_earlier);
    Ok(quote! {
        const _: () = {
            #(#structures)*
            impl crate::event::Event for #name {
                const TYPES: &'static [crate::event::EventType] = &[#(#entries),*];
                fn event_type(&self) -> &'static crate::event::EventType {
                    match self { #(#to_type)* }
                }
                fn payload(&self) -> Result<String, ::serde_json::Error> {
                    match self.clone() { #(#to_payload)* }
                }
                fn decode(name: &str, schema_version: i32, payload: &str) -> Result<Self, crate::event::DecodeError> {
                    // The newest versions are looked for first: what is written today is read without a detour.
                    match (name, schema_version) {
                        #(#from_payload)*
                        #(#from_earlier)*
                        _ => Err(crate::event::DecodeError::Unknown { name: name.to_owned(), schema_version }),
                    }
                }
            }
        };
    })
}

fn part(enumeration: &Ident, prefix: &str, index: usize, variant: &Variant) -> syn::Result<Parts> {
    let ident = &variant.ident;
    let name = format!("{prefix}.{}", snake(&ident.to_string()));
    let Stored { version, upcasters } = stored_as(&name, variant)?;
    let about = about(&variant.attrs);
    let payload = format_ident!("{enumeration}{ident}");
    let named = match &variant.fields {
        Fields::Named(fields) => fields.named.iter().collect::<Vec<_>>(),
        Fields::Unit => Vec::new(),
        Fields::Unnamed(_) => return Err(syn::Error::new_spanned(variant, "fields of an event have names")),
    };
    let names: Vec<_> = named.iter().map(|field| &field.ident).collect();
    let fields = named.iter().map(|field| {
        let (attrs, ident, ty) = (&field.attrs, &field.ident, &field.ty);
        quote! { #(#attrs)* #ident: #ty }
    });
    Ok(Parts {
        structure: quote! {
            #[derive(::serde::Serialize, ::serde::Deserialize, ::schemars::JsonSchema)]
            #[schemars(description = #about)]
            struct #payload { #(#fields),* }
        },
        entry: quote! {
            crate::event::EventType {
                name: #name,
                schema_version: #version,
                about: #about,
                schema: || ::schemars::schema_for!(#payload),
                upcasters: &[#(#upcasters),*],
                check: |version, payload| {
                    <#enumeration as crate::event::Event>::decode(#name, version, payload).map(|_| ())
                },
            }
        },
        to_type: quote! { Self::#ident { .. } => &Self::TYPES[#index], },
        to_payload: quote! {
            Self::#ident { #(#names),* } => ::serde_json::to_string(&#payload { #(#names),* }),
        },
        from_payload: quote! {
            (#name, #version) => {
                let #payload { #(#names),* } = ::serde_json::from_str(payload)
                    .map_err(|source| crate::event::DecodeError::Malformed { name: #name, source })?;
                Ok(Self::#ident { #(#names),* })
            }
        },
        from_earlier: if version == 1 {
            Tokens::new()
        } else {
            quote! {
                (#name, 1..#version) => {
                    let #payload { #(#names),* } = Self::TYPES[#index].upcast(schema_version, payload)?;
                    Ok(Self::#ident { #(#names),* })
                }
            }
        },
    })
}

/// How a variant is stored, and how it was before.
struct Stored {
    version: i32,
    /// From version 1 on, as entries of the catalogue.
    upcasters: Vec<Tokens>,
}

fn prefix(input: &DeriveInput) -> syn::Result<String> {
    let mut found = None;
    for attr in input.attrs.iter().filter(|attr| attr.path().is_ident("event")) {
        attr.parse_nested_meta(|meta| {
            if !meta.path.is_ident("prefix") {
                return Err(meta.error("expected `prefix = \"…\"`"));
            }
            found = Some(meta.value()?.parse::<LitStr>()?.value());
            Ok(())
        })?;
    }
    found.ok_or_else(|| syn::Error::new_spanned(&input.ident, "missing #[event(prefix = \"…\")]"))
}

fn stored_as(stored: &str, variant: &Variant) -> syn::Result<Stored> {
    let (mut version, mut upcasters) = (1, BTreeMap::new());
    for attr in variant.attrs.iter().filter(|attr| attr.path().is_ident("event")) {
        attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("version") {
                version = meta.value()?.parse::<LitInt>()?.base10_parse()?;
                return Ok(());
            }
            if !meta.path.is_ident("upcast") {
                return Err(meta.error("expected `version = N` or `upcast(1 = function, …)`"));
            }
            let listed;
            syn::parenthesized!(listed in meta.input);
            for Upcast { from, function } in Punctuated::<Upcast, Token![,]>::parse_terminated(&listed)? {
                if upcasters.insert(from.base10_parse::<i32>()?, function).is_some() {
                    return Err(syn::Error::new_spanned(from, "this version has an upcaster already"));
                }
            }
            Ok(())
        })?;
    }
    if version < 1 {
        return Err(syn::Error::new_spanned(variant, "the first version is 1"));
    }
    let missing: Vec<_> = (1..version).filter(|from| !upcasters.contains_key(from)).collect();
    if let Some(first) = missing.first() {
        let told = format!(
            "version {version} of `{}` needs an upcaster from each version before it: upcast({first} = function, …)",
            variant.ident
        );
        return Err(syn::Error::new_spanned(variant, told));
    }
    if let Some((from, function)) = upcasters.iter().find(|(from, _)| !(1..version).contains(*from)) {
        let told = format!("version {version} has no version {from} before it: raise `version`");
        return Err(syn::Error::new_spanned(function, told));
    }
    let upcasters = upcasters.iter().map(|(from, function)| {
        let (named, file) = (quote!(#function).to_string().replace(' ', ""), format!("/schemas/{stored}.v{from}.json"));
        quote! {
            crate::event::Upcaster {
                from: #from,
                named: #named,
                schema: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), #file)),
                apply: #function,
            }
        }
    });
    Ok(Stored { version, upcasters: upcasters.collect() })
}

/// `1 = path::to::function`.
struct Upcast {
    from: LitInt,
    function: Path,
}

impl Parse for Upcast {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let from = input.parse()?;
        input.parse::<Token![=]>()?;
        Ok(Self { from, function: input.parse()? })
    }
}

fn about(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter_map(|attr| match &attr.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ")
}

fn snake(camel: &str) -> String {
    let mut out = String::new();
    for c in camel.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(attribute: Tokens) -> String {
        let input: DeriveInput = syn::parse_quote! {
            #[event(prefix = "thing")]
            enum ThingEvent { #attribute Happened { name: String } }
        };
        expand(&input).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn every_version_before_the_newest_has_an_upcaster() {
        assert_eq!(refused(quote!(#[event(version = 3, upcast(1 = first, 2 = then::second))])), "");
        assert!(refused(quote!(#[event(version = 2)])).contains("upcast(1 = function"), "none at all");
        assert!(refused(quote!(#[event(version = 3, upcast(1 = first))])).contains("upcast(2 = function"), "a gap");
        assert!(refused(quote!(#[event(upcast(1 = first))])).contains("raise `version`"), "from the newest");
        assert!(refused(quote!(#[event(version = 2, upcast(1 = first, 1 = second))])).contains("already"), "two");
        assert!(refused(quote!(#[event(version = 0)])).contains("the first version is 1"));
    }
}
