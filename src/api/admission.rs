//! Who gets in: a bound on requests in flight and on the bytes of their bodies, so that a burst costs some clients a 503
//! instead of costing the node its memory.
//!
//! Invariant: what was taken is given back when the request's [`Ticket`] is dropped, whichever way it ends. Called by
//! `rest` and `grpc`, which share one.

use crate::types::{Error, ErrorKind};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
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
}

impl Admission {
    /// Bounds of so many requests at once, with so many bytes of bodies together.
    pub fn new(requests_max: usize, body_bytes_max: usize) -> Arc<Admission> {
        Arc::new(Admission {
            requests: Gauge { used: AtomicUsize::new(0), max: requests_max },
            body_bytes: Gauge { used: AtomicUsize::new(0), max: body_bytes_max },
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
        Err(overloaded("requests at once", self.requests.max))
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
        drop(a);
        b.take_body_bytes(60).unwrap();
        assert_eq!((admission.requests_in_flight(), admission.body_bytes_in_flight()), (1, 100));
        drop(b);
        assert_eq!((admission.requests_in_flight(), admission.body_bytes_in_flight()), (0, 0));
    }
}
