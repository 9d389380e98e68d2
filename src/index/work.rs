//! What a build works with: the kernels, so many threads, and the wish of its caller to stop. Called by `train` and by the files
//! it builds with.

use super::kernels::Kernels;
use crate::rt;

/// See the module. Results never depend on the number of threads.
#[derive(Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) kernels: &'static Kernels,
    threads: usize,
    cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Work<'a> {
    pub(crate) fn new(kernels: &'static Kernels, threads: usize, cancelled: &'a (dyn Fn() -> bool + Sync)) -> Work<'a> {
        Work { kernels, threads, cancelled }
    }

    /// On the caller's thread, to the end.
    pub(crate) fn alone(kernels: &'static Kernels) -> Work<'static> {
        Work { kernels, threads: 1, cancelled: &|| false }
    }

    /// The same on one thread: for the inside of a part.
    pub(crate) fn on_one_thread(self) -> Work<'a> {
        Work { threads: 1, ..self }
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads.max(1)
    }

    /// Whether the caller no longer wants the result. Whoever sees it may return early with anything: `train` throws it away.
    pub(crate) fn is_cancelled(&self) -> bool {
        (self.cancelled)()
    }

    /// [`rt::compute::parallel`] on these threads.
    pub(crate) fn parallel<P, T: Send>(
        &self,
        parts: impl IntoIterator<Item = P, IntoIter: Send>,
        work: impl Fn(P) -> T + Sync,
    ) -> Vec<T> {
        rt::compute::parallel(self.threads, parts, work)
    }
}
