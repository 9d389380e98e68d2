//! Who gets in: a bound on requests in flight and on the bytes of their bodies, so that a burst costs some clients a 503
//! instead of costing the node its memory.
//!
//! Invariant: what was taken is given back when the request's [`Ticket`] is dropped, whichever way it ends. Called by
//! `rest` and `grpc`, which share one.

use crate::telemetry::metrics::Metrics;
use crate::types::{Error, ErrorKind};
use prometheus_client::registry::Unit;
use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// A count that never exceeds its bound.
#[derive(Debug)]
struct Gauge {
    used: AtomicUsize,
    max: usize,
}

impl Gauge {
    fn take(&self, amount: usize) -> bool {
        let taken = |used: usize| used.checked_add(amount).filter(|sum| *sum <= self.max);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken).is_ok()
    }

    fn give_back(&self, amount: usize) {
        self.used.fetch_sub(amount, Ordering::AcqRel);
    }
}

/// The bounds of all faces together.
#[derive(Debug)]
pub struct Admission {
    requests: Gauge,
    body_bytes: Gauge,
    refused: AtomicU64,
}

impl Admission {
    /// Bounds of so many requests at once, with so many bytes of bodies together.
    pub fn new(requests_max: usize, body_bytes_max: usize) -> Arc<Admission> {
        Arc::new(Admission {
            requests: Gauge { used: AtomicUsize::new(0), max: requests_max },
            body_bytes: Gauge { used: AtomicUsize::new(0), max: body_bytes_max },
            refused: AtomicU64::new(0),
        })
    }

    /// Lets a request in.
    ///
    /// # Errors
    /// `overloaded` ([`ErrorKind::Unavailable`]: nothing happened).
    pub fn admit(self: &Arc<Self>) -> Result<Ticket, Error> {
        if self.requests.take(1) {
            return Ok(Ticket { admission: self.clone(), body_bytes: AtomicUsize::new(0) });
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(overloaded("requests at once", self.requests.max))
    }

    /// Shows its figures; once for each registry.
    pub fn publish(self: &Arc<Self>, metrics: &Metrics) {
        let figure = |read: fn(&Admission) -> f64| {
            let admission = self.clone();
            move || read(&admission)
        };
        let help = "Requests that have a place: served or waiting to be";
        metrics.sample_gauge("requests_admitted", help, None, figure(|all| all.requests_in_flight() as f64));
        let help = "Bodies of requests that have a place";
        let bodies = figure(|all| all.body_bytes_in_flight() as f64);
        metrics.sample_gauge("request_bodies", help, Some(Unit::Bytes), bodies);
        let help = "Requests refused because too many, or too large ones, were under way";
        metrics.sample_counter(
            "requests_refused",
            help,
            None,
            figure(|all| all.refused.load(Ordering::Relaxed) as f64),
        );
    }

    /// Requests in flight.
    pub fn requests_in_flight(&self) -> usize {
        self.requests.used.load(Ordering::Acquire)
    }

    /// Bytes of their bodies.
    pub fn body_bytes_in_flight(&self) -> usize {
        self.body_bytes.used.load(Ordering::Acquire)
    }
}

fn overloaded(what: &str, max: usize) -> Error {
    Error::new(ErrorKind::Unavailable, "overloaded", "the node has more to do than it may take on; try again")
        .expected(format!("at most {max} {what}"))
}

/// A request's place. Dropping it gives everything back.
#[derive(Debug)]
pub struct Ticket {
    admission: Arc<Admission>,
    body_bytes: AtomicUsize,
}

impl Ticket {
    /// Takes room for more of the body.
    ///
    /// # Errors
    /// `overloaded`.
    pub fn take_body_bytes(&self, bytes: usize) -> Result<(), Error> {
        let gauge = &self.admission.body_bytes;
        if !gauge.take(bytes) {
            self.admission.refused.fetch_add(1, Ordering::Relaxed);
            return Err(overloaded("bytes of bodies at once", gauge.max));
        }
        self.body_bytes.fetch_add(bytes, Ordering::AcqRel);
        Ok(())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.admission.body_bytes.give_back(*self.body_bytes.get_mut());
        self.admission.requests.give_back(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_and_everything_comes_back() {
        let admission = Admission::new(2, 100);
        let (a, b) = (admission.admit().unwrap(), admission.admit().unwrap());
        let refused = admission.admit().unwrap_err();
        assert_eq!((refused.kind(), refused.code()), (ErrorKind::Unavailable, "overloaded"));
        a.take_body_bytes(60).unwrap();
        b.take_body_bytes(40).unwrap();
        assert!(b.take_body_bytes(1).is_err());
        assert!(b.take_body_bytes(usize::MAX).is_err(), "no overflow");
        let metrics = Metrics::new();
        admission.publish(&metrics);
        let text = metrics.encode();
        for line in [
            "vectorsphere_requests_admitted 2.0\n",
            "vectorsphere_request_bodies_bytes 100.0\n",
            "vectorsphere_requests_refused_total 3.0\n",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
        drop(a);
        b.take_body_bytes(60).unwrap();
        assert_eq!((admission.requests_in_flight(), admission.body_bytes_in_flight()), (1, 100));
        drop(b);
        assert_eq!((admission.requests_in_flight(), admission.body_bytes_in_flight()), (0, 0));
    }
}
