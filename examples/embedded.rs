//! VectorSphere as a library: opens a directory, writes a few documents, searches with a filter, reopens.
//! Run with `cargo run --release --example embedded`.

use serde_json::json;
use vectorsphere::{
    embedded::{Database, Options},
    types::{DocumentId, Filter, IndexType, Metric, Payload, Point, Vector, VectorName, operation::Search},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("vectorsphere-example-{}", std::process::id()));
    {
        let database = Database::open(&directory, Options::default())?;
        let cities = database.create_collection("cities", 2, Metric::Euclidean, IndexType::IvfPq)?;
        let places = [
            ("Paris", 48.9, 2.4, "FR"),
            ("Lyon", 45.8, 4.8, "FR"),
            ("Berlin", 52.5, 13.4, "DE"),
            ("Rome", 41.9, 12.5, "IT"),
        ];
        let points = places.map(|(name, latitude, longitude, country)| point(name, [latitude, longitude], country));
        let written = cities.upsert_points(points.into_iter().collect::<Result<Vec<_>, _>>()?)?;
        println!("written at version {}", written.version);
    }
    // Everything acknowledged is there again.
    let database = Database::open(&directory, Options::default())?;
    let cities = database.collection("cities")?;
    let not_french = Filter::from_json(&json!({"must_not": [{"key": "country", "match": {"value": "FR"}}]}))?;
    let near_paris = Search { filter: Some(not_french), ..Search::nearest(Vector::new(vec![48.9, 2.4])?, 2) };
    for hit in cities.search_with(near_paris)?.hits {
        println!("{} at distance {:.2}", hit.point.id, hit.score);
    }
    println!("healthy: {}", database.health().ready);
    database.close();
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn point(name: &str, place: [f32; 2], country: &str) -> Result<Point, vectorsphere::types::Error> {
    let payload = json!({ "country": country });
    Ok(Point {
        id: DocumentId::from_text(name)?,
        vectors: vec![(VectorName::default(), Vector::new(place.to_vec())?)],
        payload: Payload::new(payload.as_object().cloned().unwrap_or_default())?,
        if_version: None,
    })
}
