//! What `quickstart` says: the words found, and how to go on by curl, Python and `serve`. The commands it prints work as they stand; a
//! test of the whole program runs them. Called by `quickstart`.

use super::{NEIGHBOURS, Report, TABLE};
use crate::cli::context::grouped;

/// The report for people.
pub fn shown(report: &Report) -> String {
    let mut text = String::new();
    for notice in &report.notices {
        text += &format!("note: {notice}\n");
    }
    text += &format!(
        "A node is running at {} (data in {}), ready in {:.0} ms.\n",
        report.endpoint,
        report.data_dir.display(),
        report.start_ms
    );
    text += &match report.loaded {
        0 => format!("Table {TABLE:?} has {} documents from an earlier run.\n", grouped(report.documents)),
        loaded => format!(
            "Loaded {} English words (GloVe vectors of dimension 100) into table {TABLE:?} in {:.0} ms.\n",
            grouped(loaded as u64),
            report.load_ms
        ),
    };
    text += &format!("The first search was answered {:.0} ms after the start.\n", report.first_search_after_ms);
    text += &format!("\nThe {NEIGHBOURS} nearest words, by cosine similarity:\n");
    let width = report.searches.iter().map(|search| search.query.len()).max().unwrap_or(0);
    for search in &report.searches {
        let words: Vec<String> = search.words.iter().map(|(word, score)| format!("{word} {score:.2}")).collect();
        text += &format!("  {:width$}  {}\n", search.query, words.join(", "));
    }
    text + &onwards(report)
}

fn onwards(report: &Report) -> String {
    let endpoint = &report.endpoint;
    let data_dir = report.data_dir.display();
    format!(
        r#"
With curl, while it runs (--keep keeps it running in scripts):

  curl {endpoint}/api/v1/tables/{TABLE}/documents/king
  curl -X POST {endpoint}/api/v1/tables -H 'content-type: application/json' \
       -d '{{"table_name": "mine", "dimension": 3, "metric": "cosine"}}'
  curl -X POST {endpoint}/api/v1/tables/mine/documents -H 'content-type: application/json' \
       -d '{{"documents": [{{"document_id": "a", "vector": [1, 2, 3], "metadata": {{"lang": "en"}}}}]}}'
  curl -X POST {endpoint}/api/v1/tables/mine/search -H 'content-type: application/json' \
       -d '{{"vector": [1, 2, 2.5], "top_k": 5}}'

With Python, nothing to install:

python3 - <<'END'
import json, urllib.request
api = "{endpoint}/api/v1/tables/{TABLE}"
def call(path, body=None):
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(api + path, data, {{"content-type": "application/json"}})
    return json.load(urllib.request.urlopen(request))
king = call("/documents/king")["vector"]
for hit in call("/search", {{"vector": king, "top_k": 6}})["results"]:
    print(hit["document_id"], hit["score"])
END

With this program:

  vectorsphere search {TABLE} --id jazz --endpoint {endpoint}
  vectorsphere import FILE --table mine --dry-run     (npy, fvecs, jsonl, csv …)
  vectorsphere serve --data-dir {data_dir}            (the same node, without the sample's show)

The API is described at {endpoint}/docs
"#
    )
}
