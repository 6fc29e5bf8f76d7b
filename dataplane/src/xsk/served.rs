//! The map `served` of redirect.bpf.c, mapped into our memory so that a worker can write it without a system call.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;

use libbpf_rs::{MapHandle, MapType, libbpf_sys};

use super::program::cause;

/// An entry of an array map is a multiple of 8 bytes (`array_map_alloc`).
pub(crate) const ENTRY: usize = 8;

/// The map, and its memory.
pub(crate) struct ServedMap {
    map: MapHandle,
    base: NonNull<AtomicU8>,
    length: NonZeroUsize,
}

// SAFETY: the memory is only given out as atomics, and is unmapped when nobody borrows it any more.
unsafe impl Send for ServedMap {}
// SAFETY: as above.
unsafe impl Sync for ServedMap {}

impl ServedMap {
    /// Makes the map, with `entries` entries that are all zero.
    pub(crate) fn create(entries: u32) -> io::Result<Self> {
        libbpf_rs::set_print(None);
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            map_flags: libbpf_sys::BPF_F_MMAPABLE,
            ..Default::default()
        };
        let map =
            MapHandle::create(MapType::Array, Some("served"), 4, ENTRY as u32, entries, &options).map_err(cause)?;
        // The kernel rounds up to whole pages (array_map_mmap).
        let length = NonZeroUsize::new(entries as usize * ENTRY).ok_or(io::ErrorKind::InvalidInput)?;
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at a place that the kernel chooses; the descriptor is open.
        let memory =
            unsafe { libc::mmap(std::ptr::null_mut(), length.get(), access, shared, map.as_fd().as_raw_fd(), 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(ServedMap { map, base, length })
    }

    /// All entries, byte by byte.
    pub(crate) fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: the mapping has this length and lives as long as `self`; whoever else writes it (nobody, the kernel only reads) would
        // have to do so byte by byte as well.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.length.get()) }
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

impl Drop for ServedMap {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length, and nobody borrows it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length.get()) };
    }
}
