//! One batch to the server, down to the last good row: a batch that is refused whole is cut at the document the server names,
//! or else in halves, until every refused row stands alone. Called by `import`.

use super::{batch::encode, fault::RowFault, row::Record};
use crate::{
    cli::client::{ApiClient, ApiError, Problem},
    rt,
};
use std::{ops::Range, sync::Arc};

/// What became of a batch's records.
#[derive(Debug, Default)]
pub struct Sent {
    pub imported: u64,
    pub faults: Vec<RowFault>,
}

/// Sends `records`; with `split`, a batch refused for its content is cut until the bad rows are found (at most `faults_max`
/// of them, then the refusal is returned). One request if all is well; about two more for each bad row the server names, `2 log2 n`
/// for each it does not.
///
/// # Errors
/// What is not about single rows: no server, no such table, no permission; and any refusal without `split`.
pub async fn send(
    client: &ApiClient,
    table: &str,
    records: Arc<Vec<(u64, Record)>>,
    split: bool,
    faults_max: u64,
) -> Result<Sent, ApiError> {
    let mut sent = Sent::default();
    let mut waiting = Vec::from([Range { start: 0, end: records.len() }]);
    while let Some(range) = waiting.pop() {
        if range.is_empty() {
            continue;
        }
        let body = {
            let (records, range) = (records.clone(), range.clone());
            rt::compute::cpu(move || encode(&records[range])).await
        };
        match client.add_documents(table, body).await {
            Ok(()) => sent.imported += range.len() as u64,
            Err(ApiError::Refused(problem)) if split && is_about_content(&problem) => {
                if sent.faults.len() as u64 >= faults_max {
                    return Err(ApiError::Refused(problem));
                }
                cut(&records, range, *problem, &mut waiting, &mut sent.faults);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Bad request, too large, unprocessable: another body might be taken.
fn is_about_content(problem: &Problem) -> bool {
    matches!(problem.status, 400 | 413 | 422)
}

fn cut(
    records: &[(u64, Record)],
    range: Range<usize>,
    problem: Problem,
    waiting: &mut Vec<Range<usize>>,
    faults: &mut Vec<RowFault>,
) {
    let named = if range.len() == 1 { Some(range.start) } else { named(records, &range, &problem) };
    let (left, right) = match named {
        Some(at) => {
            faults.push(fault(&records[at], problem));
            (range.start..at, at + 1..range.end)
        }
        None => {
            let middle = range.start + range.len() / 2;
            (range.start..middle, middle..range.end)
        }
    };
    // The left part is sent first.
    waiting.extend([right, left]);
}

/// The one record of `range` the problem names, by document id or by position in the request.
fn named(records: &[(u64, Record)], range: &Range<usize>, problem: &Problem) -> Option<usize> {
    if problem.status == 413 {
        return None; // the body as a whole is too large
    }
    if let Some(id) = problem.document() {
        let mut same = range.clone().filter(|at| records[*at].1.id.to_string() == id);
        return same.next().filter(|_| same.next().is_none());
    }
    let row = usize::try_from(problem.row?).ok()?;
    Some(range.start.checked_add(row)?).filter(|at| range.contains(at))
}

fn fault((row, record): &(u64, Record), problem: Problem) -> RowFault {
    let code = if problem.code.is_empty() { format!("status_{}", problem.status) } else { problem.code };
    let message = problem.detail.unwrap_or(problem.title);
    RowFault {
        field: problem.field,
        expected: problem.expected.map(Box::new),
        got: problem.got.map(Box::new),
        document: Some(Box::new(record.to_document())),
        ..RowFault::new(*row, &code, message)
    }
}
