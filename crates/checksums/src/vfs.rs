//! What SQLite calls: the system's VFS, but for opening, closing, reading, writing, cutting and flushing a data
//! file and its log.
#![expect(
    unsafe_code,
    reason = "SQLite's VFS is an interface of C: tables of functions that take pointers"
)]

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::slice;
use std::sync::{Arc, OnceLock};

use rusqlite::{Connection, ffi};

use crate::pages::Pages;
use crate::shared::Shared;
use crate::unflushed::{Medium, Unflushed};
use crate::{DAMAGED, note};

const NAME: &CStr = c"tidemill";

/// The system's VFS.
struct Real(*mut ffi::sqlite3_vfs);

// SAFETY: SQLite registers it before it hands it out, never changes what is read of it here, and calls
// it from all threads itself.
unsafe impl Send for Real {}
// SAFETY: as above.
unsafe impl Sync for Real {}

static REAL: OnceLock<Real> = OnceLock::new();

/// What stands behind the system's own object in the memory of an open file.
struct State {
    /// The table that SQLite calls by: the system's, with our functions in some places.
    methods: ffi::sqlite3_io_methods,
    real: *const ffi::sqlite3_io_methods,
    role: Role,
    shared: Arc<Shared>,
}

enum Role {
    Data(Pages),
    Log,
}

/// SQLite aligns the memory of a file to eight bytes.
const ALIGNMENT: usize = 8;
const _: () = assert!(align_of::<State>() <= ALIGNMENT);

/// Registers the VFS, once, and tells its name.
pub(crate) fn register() -> rusqlite::Result<&'static CStr> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    let code = *REGISTERED.get_or_init(|| {
        // SAFETY: without a name SQLite tells its default VFS, which it never frees.
        let real = unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) };
        if real.is_null() {
            return ffi::SQLITE_ERROR;
        }
        REAL.get_or_init(|| Real(real));
        // SAFETY: not null, and a VFS that is registered is initialised. The copy shares the system's
        // functions. They are called with the copy then, of which they use what the original has too
        // (`pAppData`, `mxPathname`); `open` is not among them.
        let mut vfs = unsafe { *real };
        vfs.szOsFile = (offset(real) + size_of::<State>()) as c_int;
        vfs.zName = NAME.as_ptr();
        vfs.pNext = std::ptr::null_mut();
        vfs.xOpen = Some(open);
        // SAFETY: SQLite keeps the pointer and links the VFS into its list, so it is never freed.
        unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) }
    });
    succeeded(code).map(|()| NAME)
}

/// Has a file that is empty leave so many bytes of each page (not if they are negative), and tells how
/// many it was before.
pub(crate) fn reserve(conn: &Connection, mut bytes: c_int) -> rusqlite::Result<c_int> {
    // SAFETY: the connection is open as long as it is borrowed, and this operation takes a `c_int`, by
    // a pointer that it does not keep.
    succeeded(unsafe {
        ffi::sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_RESERVE_BYTES,
            (&raw mut bytes).cast(),
        )
    })
    .map(|()| bytes)
}

fn succeeded(code: c_int) -> rusqlite::Result<()> {
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// Where our state stands in the memory of a file: behind what the system's VFS asked for.
fn offset(real: *const ffi::sqlite3_vfs) -> usize {
    // SAFETY: callers pass the system's VFS, which is never freed.
    let bytes = unsafe { (*real).szOsFile } as usize;
    bytes.next_multiple_of(ALIGNMENT)
}

fn real() -> *mut ffi::sqlite3_vfs {
    REAL.get().expect("nothing is opened before `register`").0
}

/// # Safety
///
/// `file` has the memory that `register` asked for.
unsafe fn state(file: *mut ffi::sqlite3_file) -> *mut State {
    // SAFETY: the memory is `offset` bytes and one state, and aligned as that is (see `ALIGNMENT`).
    unsafe { file.cast::<u8>().add(offset(real())).cast() }
}

/// # Safety
///
/// SQLite's contract of `xOpen`: `file` points to `szOsFile` bytes, and the other pointers are valid.
unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let real = real();
    // SAFETY: the arguments are SQLite's own, and the file has at least the memory that the system's VFS
    // asked for.
    let code = unsafe {
        (*real).xOpen.map_or(ffi::SQLITE_ERROR, |open| {
            open(real, name, file, flags, out_flags)
        })
    };
    if code != ffi::SQLITE_OK {
        return code;
    }
    let role = if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
        Role::Data(Pages::default())
    } else if flags & ffi::SQLITE_OPEN_WAL != 0 {
        Role::Log
    } else {
        // Journals and temporary files stay the system's.
        return code;
    };
    let first = || match role {
        Role::Data(_) => Shared::default(),
        // What it holds is copied to the data file once it is flushed.
        Role::Log => Shared {
            // SAFETY: the system has just opened it.
            unflushed: Unflushed::inherited(unsafe { size(file) }),
            ..Shared::default()
        },
    };
    // SAFETY: data files and logs have a name, which ends with a zero.
    let shared = Shared::of(unsafe { CStr::from_ptr(name) }, first);
    // SAFETY: the file is open, so its methods are set, and static. Its first field is ours to change:
    // only SQLite goes by it. State and object do not overlap.
    unsafe {
        let methods = (*file).pMethods;
        let state = state(file);
        state.write(State {
            methods: ffi::sqlite3_io_methods {
                // Version 3 would let SQLite map the file to memory and read past these functions.
                iVersion: (*methods).iVersion.min(2),
                xClose: Some(close),
                xRead: Some(read),
                xWrite: Some(write),
                xTruncate: Some(truncate),
                xSync: Some(sync),
                xDeviceCharacteristics: Some(characteristics),
                ..*methods
            },
            real: methods,
            role,
            shared,
        });
        (*file).pMethods = &raw const (*state).methods;
    }
    code
}

/// # Safety
///
/// The system has opened the file, and its methods are the system's.
unsafe fn size(file: *mut ffi::sqlite3_file) -> u64 {
    let mut size = 0;
    // SAFETY: see above.
    let told = unsafe {
        (*(*file).pMethods)
            .xFileSize
            .map_or(ffi::SQLITE_ERROR, |tell| tell(file, &raw mut size))
    };
    if told == ffi::SQLITE_OK {
        size as u64
    } else {
        0
    }
}

/// # Safety
///
/// `file` is one that `open` has given a state and `close` has not taken it from. SQLite uses a file in
/// one thread at a time, and none of the system's functions calls back: nobody else has the state.
unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see above; SQLite does not touch a file after it was closed.
    unsafe {
        let state = state(file).read();
        (*file).pMethods = state.real;
        (*state.real)
            .xClose
            .map_or(ffi::SQLITE_ERROR, |close| close(file))
    }
}

/// # Safety
///
/// As `close`; `buffer` has `amount` bytes.
unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: see above.
    let (state, Some(read)) = (unsafe {
        let state = &mut *state(file);
        let read = (*state.real).xRead;
        (state, read)
    }) else {
        return ffi::SQLITE_ERROR;
    };
    // SAFETY: SQLite's own arguments.
    let code = unsafe { read(file, buffer, amount, offset) };
    if code != ffi::SQLITE_OK {
        return code;
    }
    // SAFETY: the system has just filled it, and it is SQLite's to be filled until this returns.
    let data = unsafe { slice::from_raw_parts_mut(buffer.cast::<u8>(), amount as usize) };
    let shared = &*state.shared;
    let last = shared.unflushed.read(data, offset as u64);
    let checked = last.and_then(|()| match &mut state.role {
        Role::Log => shared.frames.read(data, offset as u64),
        Role::Data(pages) => pages.read(data, offset as u64, &mut |more, at| {
            // SAFETY: the buffer is as long as is said.
            let code = unsafe {
                read(
                    file,
                    more.as_mut_ptr().cast(),
                    more.len() as c_int,
                    at as ffi::sqlite3_int64,
                )
            };
            code == ffi::SQLITE_OK
        }),
    });
    match checked {
        Ok(()) => ffi::SQLITE_OK,
        Err(damage) => {
            note(damage);
            DAMAGED
        }
    }
}

/// # Safety
///
/// As `close`; `buffer` has `amount` bytes.
unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    buffer: *const c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: see above; the bytes are SQLite's, which does not change them before this returns.
    let (state, data, Some(write)) = (unsafe {
        let state = &mut *state(file);
        let write = (*state.real).xWrite;
        let data = slice::from_raw_parts(buffer.cast::<u8>(), amount as usize);
        (state, data, write)
    }) else {
        return ffi::SQLITE_ERROR;
    };
    let (data, sum) = match &mut state.role {
        Role::Log => {
            let sum = crc32fast::hash(data);
            state.shared.frames.write(data.len(), sum, offset as u64);
            (data, sum)
        }
        Role::Data(pages) => match pages.write(data, offset as u64) {
            Ok(sealed) => {
                let data = sealed.unwrap_or(data);
                (data, crc32fast::hash(data))
            }
            Err(()) => return ffi::SQLITE_IOERR_WRITE,
        },
    };
    let mut code = ffi::SQLITE_OK;
    let shared = &state.shared;
    shared.unflushed.write(data.len(), sum, offset as u64, || {
        // SAFETY: as many bytes as SQLite gave.
        code = unsafe { write(file, data.as_ptr().cast(), amount, offset) };
        code == ffi::SQLITE_OK
    });
    code
}

/// # Safety
///
/// As `close`.
unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    // SAFETY: see above.
    let (state, Some(truncate)) = (unsafe {
        let state = &*state(file);
        (state, (*state.real).xTruncate)
    }) else {
        return ffi::SQLITE_ERROR;
    };
    let mut code = ffi::SQLITE_OK;
    state.shared.unflushed.truncate(size as u64, || {
        // SAFETY: SQLite's own arguments.
        code = unsafe { truncate(file, size) };
        code == ffi::SQLITE_OK
    });
    code
}

/// # Safety
///
/// As `close`.
unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: see above.
    let state = unsafe { &*state(file) };
    let mut handle = Handle {
        file,
        methods: state.real,
        flags,
    };
    match state.shared.unflushed.flush(&mut handle) {
        Ok(()) => ffi::SQLITE_OK,
        // What the system's own returns for whatever it is.
        Err(_) => ffi::SQLITE_IOERR_FSYNC,
    }
}

/// A file in a call of SQLite's, by the system's methods.
struct Handle {
    file: *mut ffi::sqlite3_file,
    methods: *const ffi::sqlite3_io_methods,
    /// How it is to be flushed.
    flags: c_int,
}

impl Handle {
    fn done(code: Option<c_int>) -> io::Result<()> {
        match code {
            Some(ffi::SQLITE_OK) => Ok(()),
            _ => Err(io::Error::other("the system failed to do it")),
        }
    }
}

impl Medium for Handle {
    fn read(&mut self, data: &mut [u8], offset: u64) -> io::Result<()> {
        let (buffer, amount) = (data.as_mut_ptr().cast(), data.len() as c_int);
        // SAFETY: the file is open as long as SQLite's call lasts, and the buffer is as long as is said.
        Self::done(unsafe {
            (*self.methods)
                .xRead
                .map(|read| read(self.file, buffer, amount, offset as ffi::sqlite3_int64))
        })
    }

    fn write(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        let (buffer, amount) = (data.as_ptr().cast(), data.len() as c_int);
        // SAFETY: as above.
        Self::done(unsafe {
            (*self.methods)
                .xWrite
                .map(|write| write(self.file, buffer, amount, offset as ffi::sqlite3_int64))
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        // SAFETY: as above.
        Self::done(unsafe {
            (*self.methods)
                .xSync
                .map(|sync| sync(self.file, self.flags))
        })
    }
}

/// # Safety
///
/// As `close`.
unsafe extern "C" fn characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see above.
    let told = unsafe {
        let state = &*state(file);
        (*state.real)
            .xDeviceCharacteristics
            .map_or(0, |tell| tell(file))
    };
    // SQLite reads parts of pages otherwise, which cannot be checked.
    told & !ffi::SQLITE_IOCAP_SUBPAGE_READ
}
