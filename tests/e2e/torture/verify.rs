//! What must be true of a log and of its read models, whatever was done to them.

use std::collections::BTreeMap;

use futures::StreamExt;
use serde_json::Value;

use crate::client::Client;
use crate::house::Lodging;
use crate::verify::verify;

/// Walks over the log and looks whether it keeps every promise.
pub(crate) async fn verify_log(lodging: &Lodging) {
    let (code, printed, told) = verify(lodging).await;
    assert_eq!(code, 0, "{printed}\n{told}");
}

/// All that a list shows, by id, once it has seen the log's end; each as the fold of its own stream shows it.
pub(crate) async fn folded(client: &Client, path: &str, head: usize) -> BTreeMap<String, Value> {
    let mut shown = BTreeMap::new();
    let mut page = format!("{path}?limit=100");
    loop {
        let answer = client.get(&page).header("annals-min-sequence", head.to_string()).expect(200).await;
        for row in answer.data() {
            let again = shown.insert(row["id"].as_str().unwrap().to_owned(), row.clone());
            assert!(again.is_none(), "{row} is listed twice");
        }
        let Some(cursor) = answer.body["next_cursor"].as_str() else { break };
        page = format!("{path}?limit=100&cursor={cursor}");
    }
    let folds = shown.iter().map(|(id, row)| async move {
        let fold = client.get(&format!("{path}/{id}")).expect(200).await;
        assert_eq!(&fold.body, row, "the read model is the fold");
    });
    futures::stream::iter(folds).buffer_unordered(16).collect::<Vec<()>>().await;
    shown
}
