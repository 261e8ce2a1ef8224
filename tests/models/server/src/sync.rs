//! What `crates/server/src/sync.rs` names, over shuttle. Channels are tokio's own, which need no runtime:
//! each of their operations is one step, before which others may go on.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use tokio::sync::watch;

#[path = "../../sync.rs"]
mod threads;
pub(crate) use threads::{Mutex, MutexGuard, atomic};

pub(crate) fn blocking_on<T: Send + 'static>(
    runtime: &tokio::runtime::Handle,
    call: impl FnOnce() -> T + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    runtime.spawn_blocking(call)
}

/// Lets others go on.
fn step() {
    atomic::AtomicBool::new(false).load(atomic::Ordering::SeqCst);
}

#[derive(Default)]
pub(crate) struct Notify(tokio::sync::Notify);

impl Notify {
    pub(crate) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        step();
        self.0.notified()
    }

    pub(crate) fn notify_waiters(&self) {
        step();
        self.0.notify_waiters();
    }
}

/// A deadline that is further off does not come within an execution; any other comes at any moment.
pub(crate) const FAR: Duration = Duration::from_secs(1_000);

pub(crate) struct Elapsed;

pub(crate) async fn timeout_at<T>(
    deadline: Instant,
    future: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    let time_is_over = Arc::new(Mutex::new((false, None::<Waker>)));
    if deadline < Instant::now() + FAR {
        let clock = time_is_over.clone();
        shuttle::thread::spawn(move || {
            let waker = {
                let mut state = clock.lock();
                state.0 = true;
                state.1.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        });
    }
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let mut state = time_is_over.lock();
        if state.0 {
            return Poll::Ready(Err(Elapsed));
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    })
    .await
}

pub(crate) mod oneshot {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::sync::oneshot;
    use tokio::sync::oneshot::error::{RecvError, TryRecvError};

    use super::step;

    #[derive(Debug)]
    pub(crate) struct Sender<T>(oneshot::Sender<T>);

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(oneshot::Receiver<T>);

    pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Sender(sender), Receiver(receiver))
    }

    impl<T> Sender<T> {
        pub(crate) fn send(self, value: T) -> Result<(), T> {
            step();
            self.0.send(value)
        }

        pub(crate) fn is_closed(&self) -> bool {
            step();
            self.0.is_closed()
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn close(&mut self) {
            step();
            self.0.close();
        }

        pub(crate) fn try_recv(&mut self) -> Result<T, TryRecvError> {
            step();
            self.0.try_recv()
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, RecvError>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            step();
            Pin::new(&mut self.0).poll(cx)
        }
    }
}
