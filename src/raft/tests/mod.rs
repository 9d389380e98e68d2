//! The promises of the log, of a group and of the driver.
