//! The small values inside bodies: components, ids, metadata, filters, bounded lists. Each is read in one pass without
//! an intermediate tree, and bounded while it is read, so that a body cannot become much more memory than its bytes.

use crate::types::{
    DocumentId, Error, Filter, Payload, Vector, VectorName,
    limits::{DIMENSION_MAX, VECTORS_PER_POINT_MAX},
    payload::UniqueKeys,
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Unexpected, Visitor},
};
use serde_json::{Map, Value};
use std::{fmt, marker::PhantomData};
use utoipa::ToSchema;

/// The components of a vector as they were sent: numbers, not yet known to make a vector.
#[derive(Debug, Default, PartialEq, ToSchema)]
#[schema(value_type = Vec<f32>, example = json!([0.1, 0.2, 0.3]))]
pub struct Components(pub Vec<f32>);

impl Components {
    /// The vector, if it is one.
    ///
    /// # Errors
    /// Those of [`Vector::new`].
    pub fn into_vector(self) -> Result<Vector, Error> {
        Vector::new(self.0)
    }
}

impl<'de> Deserialize<'de> for Components {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Components, D::Error> {
        deserializer.deserialize_seq(ComponentsVisitor)
    }
}

struct ComponentsVisitor;

impl<'de> Visitor<'de> for ComponentsVisitor {
    type Value = Components;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Components, A::Error> {
        let mut components = Vec::with_capacity(16);
        while let Some(Component(component)) = items.next_element()? {
            if components.len() == DIMENSION_MAX {
                return Err(A::Error::invalid_length(DIMENSION_MAX + 1, &AtMost(DIMENSION_MAX, "components")));
            }
            components.push(component);
        }
        Ok(Components(components))
    }
}

struct Component(f32);

impl<'de> Deserialize<'de> for Component {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Component, D::Error> {
        deserializer.deserialize_f32(ComponentVisitor)
    }
}

struct ComponentVisitor;

impl Visitor<'_> for ComponentVisitor {
    type Value = Component;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_f32<E>(self, value: f32) -> Result<Component, E> {
        Ok(Component(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Component, E> {
        Ok(Component(value as f32))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Component, E> {
        Ok(Component(value as f32))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Component, E> {
        Ok(Component(value as f32))
    }
}

/// Vectors by name, as they were sent.
#[derive(Debug, Default, ToSchema)]
#[schema(value_type = std::collections::BTreeMap<String, Vec<f32>>, example = json!({"title": [0.1, 0.2, 0.3]}))]
pub struct NamedComponents(Vec<(String, Components)>);

impl<'de> Deserialize<'de> for NamedComponents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NamedComponents, D::Error> {
        deserializer.deserialize_map(NamedVisitor(PhantomData)).map(NamedComponents)
    }
}

/// Reads an object of few, distinct keys.
pub(super) struct NamedVisitor<T>(pub PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
    type Value = Vec<(String, T)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of vectors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut named: Vec<(String, T)> = Vec::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value()?;
            if named.iter().any(|(other, _)| *other == name) {
                return Err(A::Error::custom(format!("duplicate field `{name}`")));
            }
            if named.len() == VECTORS_PER_POINT_MAX {
                let bound = AtMost(VECTORS_PER_POINT_MAX, "vectors");
                return Err(A::Error::invalid_length(VECTORS_PER_POINT_MAX + 1, &bound));
            }
            named.push((name, value));
        }
        Ok(named)
    }
}

/// The vectors of a document from its `vector` and `vectors`, sorted by name.
///
/// # Errors
/// Those of [`Vector::new`] and [`VectorName::new`], with the field.
pub fn vectors_of(
    default: Option<Components>,
    named: Option<NamedComponents>,
) -> Result<Vec<(VectorName, Vector)>, Error> {
    let mut vectors = Vec::with_capacity(1);
    if let Some(components) = default {
        vectors.push((VectorName::default(), components.into_vector().map_err(|error| error.at("vector"))?));
    }
    for (name, components) in named.unwrap_or_default().0 {
        let place = |error: Error| error.at(format!("vectors.{name}"));
        let vector = components.into_vector().map_err(place)?;
        vectors.push((VectorName::new(name.clone()).map_err(place)?, vector));
    }
    vectors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(vectors)
}

/// Name of a document: text, or a number of 0 or more. Answers spell it as the write did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(example = json!("doc1"))]
pub enum WireId {
    /// A number.
    Num(u64),
    /// Text. A canonical decimal number names the same document as the number, a UUID is that UUID.
    Text(String),
}

impl WireId {
    /// The id, if it can be one.
    ///
    /// # Errors
    /// `bad_document_id`.
    pub fn into_id(self) -> Result<DocumentId, Error> {
        match self {
            WireId::Num(number) => Ok(DocumentId::Num(number)),
            WireId::Text(text) => DocumentId::from_text(text),
        }
    }
}

impl<'de> Deserialize<'de> for WireId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WireId, D::Error> {
        deserializer.deserialize_any(WireIdVisitor)
    }
}

struct WireIdVisitor;

impl Visitor<'_> for WireIdVisitor {
    type Value = WireId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a whole number of 0 or more")
    }

    fn visit_u64<E>(self, value: u64) -> Result<WireId, E> {
        Ok(WireId::Num(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<WireId, E> {
        u64::try_from(value).map(WireId::Num).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
    }

    fn visit_str<E>(self, value: &str) -> Result<WireId, E> {
        Ok(WireId::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<WireId, E> {
        Ok(WireId::Text(value))
    }
}

/// Attributes of a document: any JSON object without repeated keys.
#[derive(Debug, Default, ToSchema)]
#[schema(value_type = Object, example = json!({"title": "Example Document"}))]
pub struct Metadata(pub Map<String, Value>);

impl Metadata {
    /// The payload, if depth and size are within bounds.
    ///
    /// # Errors
    /// Those of [`Payload::new`], at `metadata`.
    pub fn into_payload(self) -> Result<Payload, Error> {
        Payload::new(self.0).map_err(|error| error.at("metadata"))
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Metadata, D::Error> {
        deserializer.deserialize_map(MetadataVisitor)
    }
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Metadata, A::Error> {
        match UniqueKeys.visit_map(entries)? {
            Value::Object(object) => Ok(Metadata(object)),
            _ => unreachable!("invariant: a map is read into an object"),
        }
    }
}

/// A filter: `{"must":[…],"should":[…],"must_not":[…]}` of conditions on metadata paths and ids; filters nest.
#[derive(Debug, ToSchema)]
#[schema(value_type = Object, example = json!({
    "must": [{"key": "lang", "match": {"any": ["en", "de"]}}, {"key": "year", "range": {"gte": 2020}}],
    "must_not": [{"is_null": {"key": "title"}}]
}))]
pub struct FilterJson(pub Value);

impl FilterJson {
    /// The filter, if it is one.
    ///
    /// # Errors
    /// Those of [`Filter::from_json`], at `filter`.
    pub fn into_filter(self) -> Result<Filter, Error> {
        Filter::from_json(&self.0).map_err(|error| error.at("filter"))
    }
}

impl<'de> Deserialize<'de> for FilterJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FilterJson, D::Error> {
        UniqueKeys.deserialize(deserializer).map(FilterJson)
    }
}

/// A struct that is read from a JSON object only. serde's own structs also take an array of their fields in order, which
/// would let a list of numbers pass for a document.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        T::deserialize(AsMap(deserializer)).map(Object)
    }
}

struct AsMap<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for AsMap<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct enum identifier ignored_any
    }
}

/// A list of at most `MAX` items.
#[derive(Debug)]
pub struct Bounded<T, const MAX: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BoundedVisitor(PhantomData))
    }
}

struct BoundedVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for BoundedVisitor<T, MAX> {
    type Value = Bounded<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element()? {
            if out.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &AtMost(MAX, "items")));
            }
            out.push(item);
        }
        Ok(Bounded(out))
    }
}

/// "at most 5 items", for errors of length.
struct AtMost(usize, &'static str);

impl serde::de::Expected for AtMost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} {}", self.0, self.1)
    }
}
