//! Makes the plan of a failing run smaller by delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing
//! Input", 2002): whatever can be left out is left out, as long as the run goes on failing. Plans are looked at as JSON: whatever a
//! scenario's plans are like, these are their lists. What a client does later it still does at its time: whoever leaves a step out waits
//! as long before the next. Pure; called by the runner, which runs the plans, and by `tests/plan.rs`.
use serde_json::Value;

/// A plan from which no one item can be left out: one list after the other is made shorter until none is, then again from the
/// first, until nothing more comes of it. `fails` says whether the run still fails with a plan; it is asked often.
pub fn shrink(mut plan: Value, fails: &mut dyn FnMut(&Value) -> bool) -> Value {
    keep_chances(&mut plan);
    loop {
        let before = plan.clone();
        plan = without_finale(plan, fails);
        for list in lists(&plan) {
            let items = plan.pointer(&list).and_then(Value::as_array).cloned().unwrap_or_default();
            let with = |items: &[Value]| {
                let mut other = plan.clone();
                *other.pointer_mut(&list).expect("it was there") = Value::from(items.to_vec());
                other
            };
            let items = minimise(items, &mut |items| fails(&with(items)));
            plan = with(&items);
        }
        if plan == before {
            break;
        }
    }
    without_idlers(plan, fails)
}

/// Each fault gets the chance of the place it has now.
fn keep_chances(plan: &mut Value) {
    for list in ["faults", "troubles"] {
        for (place, fault) in (1u64..).zip(plan[list].as_array_mut().into_iter().flatten()) {
            if fault["chance"].is_null() {
                fault["chance"] = place.into();
            }
        }
    }
}

/// Without the clients that do nothing, if that changes nothing: the others are numbered anew.
fn without_idlers(plan: Value, fails: &mut dyn FnMut(&Value) -> bool) -> Value {
    let mut without = plan.clone();
    if let Some(clients) = without["clients"].as_array_mut() {
        clients.retain(|client| client["steps"].as_array().is_none_or(|steps| !steps.is_empty()));
    }
    if without != plan && fails(&without) { without } else { plan }
}

/// How many items are in each list of the plan, in the order in which they are made shorter.
pub fn sizes(plan: &Value) -> Vec<(String, usize)> {
    let size = |list: String| {
        let items = plan.pointer(&list).and_then(Value::as_array).map_or(0, Vec::len);
        (list, items)
    };
    lists(plan).into_iter().map(size).collect()
}

/// The lists of a plan that may be made shorter: what goes wrong, then what each client asks.
fn lists(plan: &Value) -> Vec<String> {
    let mut lists: Vec<String> =
        ["/faults", "/moves/steps", "/troubles", "/changes", "/audits"].map(str::to_string).to_vec();
    let clients = plan["clients"].as_array().map_or(0, Vec::len);
    lists.extend((0..clients).flat_map(|client| [format!("/clients/{client}"), format!("/clients/{client}/steps")]));
    lists.retain(|list| plan.pointer(list).is_some_and(Value::is_array));
    lists
}

/// Without the last collapse, if it is not needed.
fn without_finale(plan: Value, fails: &mut dyn FnMut(&Value) -> bool) -> Value {
    let mut without = plan.clone();
    match without.as_object_mut().and_then(|plan| plan.remove("finale")) {
        Some(_) if fails(&without) => without,
        _ => plan,
    }
}

/// A small sublist of `items` that still fails: pieces are left out as long as that can be done, then smaller pieces.
fn minimise(mut items: Vec<Value>, fails: &mut dyn FnMut(&[Value]) -> bool) -> Vec<Value> {
    let mut piece = items.len();
    while piece > 0 {
        let mut at = 0;
        while at < items.len() {
            let fewer = without(&items, at, (at + piece).min(items.len()));
            if fails(&fewer) {
                items = fewer;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    items
}

/// The items but those from `from` to before `to`, the next one as late as it was.
fn without(items: &[Value], from: usize, to: usize) -> Vec<Value> {
    let waits = |item: &Value| item["after_ms"].as_u64();
    let waited: u64 = items[from..to].iter().filter_map(waits).sum();
    let mut fewer = [&items[..from], &items[to..]].concat();
    if let Some(next) = fewer.get_mut(from)
        && let Some(wait) = waits(next)
    {
        next["after_ms"] = (wait + waited).into();
    }
    fewer
}
