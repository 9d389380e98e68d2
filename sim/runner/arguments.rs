//! The part of libtest's command line that cargo, IDEs and nextest use. Unknown flags are ignored, as those tools pass
//! flags that mean nothing here.
use crate::scenarios::Scenario;

#[derive(Debug, Default)]
pub struct Arguments {
    pub list: bool,
    terse: bool,
    exact: bool,
    /// `--ignored`: only the scenarios that are run by hand.
    ignored: bool,
    filters: Vec<String>,
    skip: Vec<String>,
}

impl Arguments {
    pub fn parse(raw: &[String]) -> Arguments {
        let mut arguments = Arguments::default();
        let mut rest = raw.iter();
        while let Some(argument) = rest.next() {
            let (flag, value) = match argument.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_string())),
                _ => (argument.as_str(), None),
            };
            let mut value = || value.clone().or_else(|| rest.next().cloned()).unwrap_or_default();
            match flag {
                "--list" => arguments.list = true,
                "--exact" => arguments.exact = true,
                "--ignored" => arguments.ignored = true,
                "--skip" => arguments.skip.push(value()),
                "--format" => arguments.terse = value() == "terse",
                "--test-threads" | "--color" | "--logfile" | "--shuffle-seed" | "-Z" => drop(value()),
                flag if flag.starts_with('-') => {}
                filter => arguments.filters.push(filter.to_string()),
            }
        }
        arguments
    }

    pub fn selects(&self, scenario: &Scenario) -> bool {
        let name = scenario.name;
        let matches = |pattern: &String| if self.exact { name == pattern } else { name.contains(pattern.as_str()) };
        self.ignored == scenario.by_hand
            && (self.filters.is_empty() || self.filters.iter().any(matches))
            && !self.skip.iter().any(matches)
    }

    pub fn print_list(&self, scenarios: &[Scenario]) {
        scenarios.iter().for_each(|scenario| println!("{}: test", scenario.name));
        if !self.terse {
            println!("\n{} tests, 0 benchmarks", scenarios.len());
        }
    }
}
