//! The clock and the randomness of the system, as a simulation has them.
//!
//! Everything in the process asks the system's library for them in the end: the server's wall clock, the
//! ids that it draws, the seeds of hash maps. On the thread of a simulation the answers come from its
//! seed and from tokio's paused clock; on every other thread from the system. So no code has to know that
//! it is simulated, and none can be forgotten.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

/// When simulations begin, in seconds of Unix time.
const EPOCH: u64 = 1_800_000_000;

struct Host {
    simulated: Cell<bool>,
    random: Cell<u64>,
    /// Nanoseconds since the simulation began, when its runtime began.
    begun: Cell<u64>,
    origin: Cell<Option<Instant>>,
    /// The last answer, for those who ask outside of a runtime, or from inside its clock.
    last: Cell<u64>,
    asking: Cell<bool>,
}

thread_local! {
    static HOST: Host = const {
        Host {
            simulated: Cell::new(false),
            random: Cell::new(0),
            begun: Cell::new(0),
            origin: Cell::new(None),
            last: Cell::new(0),
            asking: Cell::new(false),
        }
    };
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Panics on the thread of a simulation are kept for it: most are caught by somebody.
pub(crate) fn watch_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if HOST.with(|host| host.simulated.get()) {
            PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
        } else {
            report(panic);
        }
    }));
}

/// What was kept, taken.
pub(crate) fn panics() -> Vec<String> {
    PANICS.take()
}

impl Host {
    fn now(&self) -> u64 {
        if !self.asking.replace(true) {
            if let Some(origin) = self.origin.get()
                && Handle::try_current().is_ok()
            {
                let passed = Instant::now() - origin;
                self.last
                    .set(self.begun.get() + u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX));
            }
            self.asking.set(false);
        }
        self.last.get()
    }

    /// SplitMix64.
    fn draw(&self) -> u64 {
        let mut random = tidemill_store::log::sim::Random(self.random.get());
        let drawn = random.draw();
        self.random.set(random.0);
        drawn
    }
}

/// From here on this thread is a simulation.
pub(crate) fn enter(seed: u64) {
    HOST.with(|host| {
        host.random.set(seed ^ 0x5eed_0f05);
        host.simulated.set(true);
    });
}

/// The simulation's clock goes on with this runtime's, which is paused.
pub(crate) fn attach() {
    HOST.with(|host| {
        host.begun.set(host.last.get());
        host.origin.set(Some(Instant::now()));
    });
}

/// The runtime is about to end.
pub(crate) fn detach() {
    HOST.with(|host| {
        host.now();
        host.origin.set(None);
    });
}

/// Nanoseconds since the simulation began.
pub(crate) fn now() -> u64 {
    HOST.with(Host::now)
}

/// The wall clock, in nanoseconds of Unix time.
pub(crate) fn wall() -> i64 {
    i64::try_from(EPOCH * 1_000_000_000 + now()).unwrap_or(i64::MAX)
}

/// Sleeps until it shows this.
pub(crate) async fn until(wall_time: i64) {
    let wait = u64::try_from(wall_time - wall()).unwrap_or(0);
    tokio::time::sleep(Duration::from_nanos(wait)).await;
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "the two functions of the system's library that a simulation answers itself"
)]
mod library {
    use std::ffi::{c_int, c_uint, c_void};

    use super::{EPOCH, HOST};

    /// # Safety
    /// As the library's.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
        let simulated = HOST
            .try_with(|host| host.simulated.get().then(|| host.now()))
            .unwrap_or_default();
        let Some(now) = simulated else {
            // SAFETY: the caller's promise is passed on.
            return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as c_int;
        };
        let (seconds, nanos) = (EPOCH + now / 1_000_000_000, now % 1_000_000_000);
        // SAFETY: the caller promises a place for the answer.
        unsafe {
            (*time).tv_sec = seconds as libc::time_t;
            (*time).tv_nsec = nanos as _;
        }
        0
    }

    /// # Safety
    /// As the library's.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn getrandom(buffer: *mut c_void, len: usize, flags: c_uint) -> isize {
        let simulated = HOST
            .try_with(|host| host.simulated.get())
            .unwrap_or_default();
        if !simulated {
            // SAFETY: the caller's promise is passed on.
            return unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) } as isize;
        }
        if len > 0 {
            // SAFETY: the caller promises so much room.
            let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len) };
            HOST.with(|host| {
                for piece in buffer.chunks_mut(8) {
                    piece.copy_from_slice(&host.draw().to_le_bytes()[..piece.len()]);
                }
            });
        }
        len as isize
    }
}
