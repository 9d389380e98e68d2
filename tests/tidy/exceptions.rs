//! The written exceptions to tidy's rules: one line each, with its reason. An exception that no longer excuses anything
//! is itself a complaint, so the list cannot rot.
//!
//! Called by `tidy` once, with the complaints of the whole tree.

use crate::Complaint;

/// Excuses one rule in one file.
struct Exception {
    file: &'static str,
    rule: &'static str,
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[];

/// The complaints that are left.
pub fn apply(complaints: Vec<Complaint>) -> Vec<Complaint> {
    apply_list(EXCEPTIONS, complaints)
}

fn apply_list(exceptions: &[Exception], complaints: Vec<Complaint>) -> Vec<Complaint> {
    let excuses = |e: &Exception, c: &Complaint| e.file == c.file && e.rule == c.rule && !e.reason.is_empty();
    let idle = exceptions.iter().filter(|e| !complaints.iter().any(|c| excuses(e, c)));
    let mut left: Vec<Complaint> = idle
        .map(|e| Complaint {
            file: e.file.to_owned(),
            line: 1,
            rule: "exception",
            text: format!(
                "the exception from `{}` excuses nothing (or gives no reason); take it off tests/tidy/exceptions.rs",
                e.rule
            ),
        })
        .collect();
    left.extend(complaints.into_iter().filter(|c| !exceptions.iter().any(|e| excuses(e, c))));
    left.sort();
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(exceptions: &[Exception]) -> Vec<&'static str> {
        let complaint = |rule| Complaint { file: "src/a.rs".to_owned(), line: 7, rule, text: String::new() };
        apply_list(exceptions, vec![complaint("clock"), complaint("thread")]).into_iter().map(|c| c.rule).collect()
    }

    #[test]
    fn an_exception_excuses_its_rule_only() {
        assert_eq!(rules(&[]), ["clock", "thread"]);
        assert_eq!(rules(&[Exception { file: "src/a.rs", rule: "clock", reason: "measured" }]), ["thread"]);
    }

    #[test]
    fn idle_and_unreasoned_exceptions_are_refused() {
        let idle = Exception { file: "src/b.rs", rule: "clock", reason: "measured" };
        assert_eq!(rules(&[idle]), ["clock", "thread", "exception"]);
        let unreasoned = Exception { file: "src/a.rs", rule: "clock", reason: "" };
        assert_eq!(rules(&[unreasoned]), ["exception", "clock", "thread"]);
    }
}
