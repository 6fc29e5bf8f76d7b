//! Array maps of redirect.bpf.c, mapped into our memory so that a worker can write them without a system call.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64};

use libbpf_rs::{MapHandle, MapType, libbpf_sys};

use super::program::cause;

/// An entry of an array map is a multiple of 8 bytes (`array_map_alloc`).
pub(crate) const ENTRY: usize = 8;

/// The map, and its memory.
pub(crate) struct MappedArray {
    map: MapHandle,
    /// The start of a page.
    base: NonNull<u8>,
    /// A multiple of [`ENTRY`].
    length: NonZeroUsize,
}

// SAFETY: the memory is only given out as atomics, and is unmapped when nobody borrows it any more.
unsafe impl Send for MappedArray {}
// SAFETY: as above.
unsafe impl Sync for MappedArray {}

impl MappedArray {
    /// Makes the map, with `entries` entries of `size` bytes (a multiple of [`ENTRY`]) that are all zero.
    pub(crate) fn create(name: &str, size: usize, entries: u32) -> io::Result<Self> {
        libbpf_rs::set_print(None);
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            map_flags: libbpf_sys::BPF_F_MMAPABLE,
            ..Default::default()
        };
        let map = MapHandle::create(MapType::Array, Some(name), 4, size as u32, entries, &options).map_err(cause)?;
        // The kernel rounds up to whole pages (array_map_mmap).
        let length = NonZeroUsize::new(entries as usize * size).ok_or(io::ErrorKind::InvalidInput)?;
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at a place that the kernel chooses; the descriptor is open.
        let memory =
            unsafe { libc::mmap(std::ptr::null_mut(), length.get(), access, shared, map.as_fd().as_raw_fd(), 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(MappedArray { map, base, length })
    }

    /// All entries, byte by byte.
    pub(crate) fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: the mapping has this length and lives as long as `self`. The kernel's program writes only what it finds in entries that are
        // given out by `words`, and those not while it reads these (see served.rs and replay/mod.rs).
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.length.get()) }
    }

    /// All entries, in words of 8 bytes.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: as for `bytes`; the start of a page is aligned, and every bit pattern is a number. The program's own writes are atomic ones or
        // aligned stores of whole words, and of the bytes of `marks`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.length.get() / ENTRY) }
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length, and nobody borrows it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length.get()) };
    }
}
