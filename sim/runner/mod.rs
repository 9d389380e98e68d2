//! Runs scenarios over seeds, one process each: two simulations in one process would share what leaks (thread-locals,
//! address space, lazily seeded hashers), one in a fresh process with fixed addresses shares nothing.
//!
//! [`arguments`] is libtest's command line as far as cargo, IDEs and nextest use it, [`settings`] the environment,
//! [`child`] one process, [`batch`] all of them, [`totals`] what is printed at the end, [`shrink`] makes a failing plan
//! smaller.
mod arguments;
mod batch;
mod child;
mod settings;
mod shrink;
mod totals;

use crate::scenarios;
use arguments::Arguments;
use settings::Settings;
use std::process::exit;

pub fn main() {
    let raw: Vec<String> = std::env::args().skip(1).collect();
    if let Some(order) = child::Order::from_arguments(&raw) {
        child::be(order);
        return;
    }
    let arguments = Arguments::parse(&raw);
    let selected: Vec<_> = scenarios::all().into_iter().filter(|scenario| arguments.selects(scenario)).collect();
    if arguments.list {
        arguments.print_list(&selected);
        return;
    }
    let settings = Settings::from_environment().unwrap_or_else(|wrong| {
        eprintln!("sim: {wrong}");
        exit(2);
    });
    let filtered_out = scenarios::all().len() - selected.len();
    let passed = match settings.shrink {
        true => shrink::run(&selected, &settings),
        false => batch::run(&selected, &settings, filtered_out),
    };
    exit(if passed { 0 } else { 101 });
}
