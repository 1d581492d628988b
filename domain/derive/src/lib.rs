//! `#[derive(Event)]`: names, schema versions, JSON schemas and payload codec of an event enum.
//!
//! ```ignore
//! #[derive(Clone, Debug, PartialEq, Event)]
//! #[event(prefix = "customer")]
//! pub enum CustomerEvent {
//!     /// The customer is known from here on.
//!     Created { name: Option<Personal<String, Profile>> },
//!     /// Stored in its second version.
//!     #[event(version = 2)]
//!     Renamed { name: String },
//! }
//! ```
//! `Created` is stored as `customer.created` in version 1. Fields may carry serde's and schemars' attributes.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{format_ident, quote};
use syn::{Attribute, Data, DeriveInput, Expr, ExprLit, Fields, Ident, Lit, LitInt, LitStr, Meta, Variant};

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
                    match (name, schema_version) {
                        #(#from_payload)*
                        _ => Err(crate::event::DecodeError::Unknown { name: name.to_owned(), schema_version }),
                    }
                }
            }
        };
    })
}

fn part(enumeration: &Ident, prefix: &str, index: usize, variant: &Variant) -> syn::Result<Parts> {
    let ident = &variant.ident;
    let stored = format!("{prefix}.{}", snake(&ident.to_string()));
    let version = version(variant)?;
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
                name: #stored,
                schema_version: #version,
                about: #about,
                schema: || ::schemars::schema_for!(#payload),
            }
        },
        to_type: quote! { Self::#ident { .. } => &Self::TYPES[#index], },
        to_payload: quote! {
            Self::#ident { #(#names),* } => ::serde_json::to_string(&#payload { #(#names),* }),
        },
        from_payload: quote! {
            (#stored, #version) => {
                let #payload { #(#names),* } = ::serde_json::from_str(payload)
                    .map_err(|source| crate::event::DecodeError::Malformed { name: #stored, source })?;
                Ok(Self::#ident { #(#names),* })
            }
        },
    })
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

fn version(variant: &Variant) -> syn::Result<i32> {
    let mut version = 1;
    for attr in variant.attrs.iter().filter(|attr| attr.path().is_ident("event")) {
        attr.parse_nested_meta(|meta| {
            if !meta.path.is_ident("version") {
                return Err(meta.error("expected `version = N`"));
            }
            version = meta.value()?.parse::<LitInt>()?.base10_parse()?;
            Ok(())
        })?;
    }
    Ok(version)
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
