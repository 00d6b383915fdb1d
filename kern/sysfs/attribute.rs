// SPDX-License-Identifier: GPL-2.0

//! Attributes: the files in a directory of sysfs, as tables that are made when the module is
//! compiled.

use super::{
    super::c,
    place::{
        release_directory,
        Node, //
    }, //
};
use core::{
    ffi::CStr,
    marker::PhantomData,
    ptr, //
};
use kernel::{
    fmt,
    prelude::*,
    str::as_char_ptr_in_const_context, //
};

/// The most attributes that one directory can have.
const MAX_ATTRIBUTES: usize = 32;

/// What ends a text that did not fit.
const CUT_MARK: &[u8] = b"...\n";

/// Writes a text into a buffer of fixed size, by `write!`.
///
/// What does not fit is left out, from the first character on that does not: writing never fails. A
/// text that was cut ends in `...` and a line feed.
///
/// # Invariants
///
/// `len + CUT_MARK.len() <= buffer.len()`
pub(crate) struct Text<'a> {
    buffer: &'a mut [u8],
    len: usize,
    cut: bool,
}

impl<'a> Text<'a> {
    /// Starts a text in `buffer`; fails with `EINVAL` if not even the mark of a cut fits there.
    pub(super) fn new(buffer: &'a mut [u8]) -> Result<Self> {
        if buffer.len() < CUT_MARK.len() {
            return Err(EINVAL);
        }
        // INVARIANT: Just checked, for `len` 0.
        Ok(Self {
            buffer,
            len: 0,
            cut: false,
        })
    }

    /// Whether something did not fit.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    /// Adds bytes that are written as they are.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let room = self.buffer.len() - CUT_MARK.len() - self.len;
        let mut n = bytes.len();
        if self.cut {
            return;
        }
        if n > room {
            self.cut = true;
            n = room;
            // Not amid a character of UTF-8.
            while n > 0 && bytes[n] & 0xc0 == 0x80 {
                n -= 1;
            }
        }
        self.buffer[self.len..self.len + n].copy_from_slice(&bytes[..n]);
        // INVARIANT: `n` is at most `room`.
        self.len += n;
    }

    /// Ends the text; returns its length in bytes.
    pub(super) fn finish(self) -> usize {
        if !self.cut {
            return self.len;
        }
        let end = self.len + CUT_MARK.len();
        self.buffer[self.len..end].copy_from_slice(CUT_MARK);
        end
    }
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.push(s.as_bytes());
        Ok(())
    }
}

/// Writes what a read of an attribute shall give.
pub(crate) type Show<T> = fn(&T, &mut Text<'_>) -> Result;

/// Takes what was written to an attribute, without white space at its ends.
pub(crate) type Store<T> = fn(&T, &str) -> Result;

/// A file in a directory of sysfs.
///
/// With `show` alone its mode is 0444, with both 0644, with `store` alone 0200. The functions run
/// in process context and may sleep. They may run at any time between the start of the registration
/// and the end of the drop, several at once, and the drop waits for them, so:
///
/// - they must not drop the [`Device`] or [`Directory`] that they belong to, nor wait for somebody
///   who does;
/// - they must not take a lock that is held while that is dropped;
/// - they must not register a [`Device`] or add a [`Directory`].
///
/// To drop *other* directories, such as those below, is fine.
///
/// [`Device`]: super::Device
/// [`Directory`]: super::Directory
pub(crate) struct Attribute<T> {
    /// The name of the file.
    pub(crate) name: &'static CStr,
    /// Called for a read. An error is what the reader gets.
    pub(crate) show: Option<Show<T>>,
    /// Called for a write. An error is what the writer gets; else all was taken.
    pub(crate) store: Option<Store<T>>,
}

/// Data that is seen as attributes.
pub(crate) trait Attributes: Sized + Send + Sync + 'static {
    /// All the attributes, with different names; at most 32.
    const LIST: &'static [Attribute<Self>];
}

/// A directory without files of its own.
impl Attributes for () {
    const LIST: &'static [Attribute<Self>] = &[];
}

/// An attribute in the form that C wants, and what C's callbacks need beside.
///
/// A device wants the whole `device_attribute`; any other kobject uses only the `attribute` at its
/// front.
#[repr(C)]
struct Entry<T> {
    c: c::device_attribute,
    show: Option<Show<T>>,
    store: Option<Store<T>>,
}

/// Whether two strings are the same, when the module is compiled.
const fn same(a: &CStr, b: &CStr) -> bool {
    let (a, b) = (a.to_bytes(), b.to_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// The C tables for the attributes of `T`. They are constants: lockdep wants attributes in static
/// memory, each of them being a lock class of its own.
pub(super) struct Table<T>(PhantomData<T>);

impl<T: Attributes> Table<T> {
    const EMPTY: Entry<T> = Entry {
        c: pin_init::zeroed(),
        show: None,
        store: None,
    };

    const ENTRIES: &'static [Entry<T>; MAX_ATTRIBUTES] = &{
        let mut entries = [Self::EMPTY; MAX_ATTRIBUTES];
        assert!(T::LIST.len() <= MAX_ATTRIBUTES);
        let mut i = 0;
        while i < T::LIST.len() {
            let attribute = &T::LIST[i];
            assert!(!attribute.name.is_empty());
            let mut j = 0;
            while j < i {
                assert!(!same(attribute.name, T::LIST[j].name));
                j += 1;
            }
            let entry = &mut entries[i];
            entry.c.attr.name = as_char_ptr_in_const_context(attribute.name);
            entry.c.attr.mode = match (&attribute.show, &attribute.store) {
                (Some(_), None) => 0o444,
                (Some(_), Some(_)) => 0o644,
                (None, Some(_)) => 0o200,
                (None, None) => panic!("an attribute without show and store"),
            };
            entry.c.__bindgen_anon_1.show = Some(Self::device_show);
            entry.c.__bindgen_anon_2.store = Some(Self::device_store);
            entry.show = attribute.show;
            entry.store = attribute.store;
            i += 1;
        }
        entries
    };

    /// Pointers to the entries in use, the last followed by null.
    const POINTERS: &'static [*mut c::attribute; MAX_ATTRIBUTES + 1] = &{
        let mut pointers = [ptr::null_mut(); MAX_ATTRIBUTES + 1];
        let mut i = 0;
        while i < T::LIST.len() {
            pointers[i] = (&raw const Self::ENTRIES[i].c.attr).cast_mut();
            i += 1;
        }
        pointers
    };

    const GROUP: &'static c::attribute_group = &{
        let mut group: c::attribute_group = pin_init::zeroed();
        group.__bindgen_anon_2.attrs = Self::POINTERS.as_ptr().cast_mut();
        group
    };

    /// The list of groups: that one, and null.
    const GROUPS: &'static [*const c::attribute_group; 2] =
        &[ptr::from_ref(Self::GROUP), ptr::null()];

    const OPS: &'static c::sysfs_ops = &c::sysfs_ops {
        show: Some(Self::kobject_show),
        store: Some(Self::kobject_store),
    };

    /// The type of a kobject with these attributes, which is freed by [`release_directory`].
    pub(super) const KOBJECT: &'static c::kobj_type = &{
        let mut kind: c::kobj_type = pin_init::zeroed();
        kind.release = Some(release_directory);
        kind.sysfs_ops = Self::OPS;
        kind.default_groups = Self::groups();
        kind
    };

    /// The list of groups, as C wants it; nobody writes to it.
    pub(super) const fn groups() -> *mut *const c::attribute_group {
        Self::GROUPS.as_ptr().cast_mut()
    }

    /// # Safety
    ///
    /// `attr` must be one of [`Self::POINTERS`], and `buffer` a zeroed page.
    unsafe fn show(data: &T, attr: *const c::attribute, buffer: *mut c_char) -> isize {
        // SAFETY: By the requirements `attr` is at the front of an entry of the table.
        let entry = unsafe { &*attr.cast::<Entry<T>>() };
        let bytes = buffer.cast::<u8>();
        // SAFETY: The page is ours until we return, and initialized. sysfs complains about texts
        // that fill it whole.
        let page = unsafe { core::slice::from_raw_parts_mut(bytes, c::PAGE_SIZE - 1) };
        let shown = Text::new(page).and_then(|mut text| {
            (entry.show.ok_or(EIO)?)(data, &mut text)?;
            Ok(text.finish())
        });
        match shown {
            // At most a page: no overflow.
            Ok(n) => n as isize,
            Err(e) => e.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// `attr` must be one of [`Self::POINTERS`], and `buffer` have `count` bytes.
    unsafe fn store(
        data: &T,
        attr: *const c::attribute,
        buffer: *const c_char,
        count: usize,
    ) -> isize {
        // SAFETY: By the requirements `attr` is at the front of an entry of the table.
        let entry = unsafe { &*attr.cast::<Entry<T>>() };
        // SAFETY: By the requirements there are `count` bytes, which nobody changes meanwhile.
        let bytes = unsafe { core::slice::from_raw_parts(buffer.cast::<u8>(), count) };
        let store = || -> Result {
            // sysfs hands over a page at most: what fills it may be the front of something longer.
            if count >= c::PAGE_SIZE {
                return Err(E2BIG);
            }
            let text = core::str::from_utf8(bytes).map_err(|_| EINVAL)?;
            (entry.store.ok_or(EIO)?)(data, text.trim())
        };
        match store() {
            // Less than a page: no overflow.
            Ok(()) => count as isize,
            Err(e) => e.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// For sysfs only: the object must be a [`Node`] with this table.
    unsafe extern "C" fn device_show(
        dev: *mut c::device,
        attr: *mut c::device_attribute,
        buffer: *mut c_char,
    ) -> isize {
        // SAFETY: sysfs calls this only between the registration of the attributes and the end of
        // their removal: in that time the node's data is the `T` that was registered with this
        // table, and alive. It hands over an attribute of the table and a zeroed page.
        unsafe { Self::show(Node::data(dev), attr.cast(), buffer) }
    }

    /// # Safety
    ///
    /// As of [`Self::device_show`].
    unsafe extern "C" fn device_store(
        dev: *mut c::device,
        attr: *mut c::device_attribute,
        buffer: *const c_char,
        count: usize,
    ) -> isize {
        // SAFETY: As in `device_show`; the buffer has `count` bytes.
        unsafe { Self::store(Node::data(dev), attr.cast(), buffer, count) }
    }

    /// # Safety
    ///
    /// As of [`Self::device_show`].
    unsafe extern "C" fn kobject_show(
        kobj: *mut c::kobject,
        attr: *mut c::attribute,
        buffer: *mut c_char,
    ) -> isize {
        // SAFETY: As in `device_show`.
        unsafe { Self::show(Node::data(kobj), attr, buffer) }
    }

    /// # Safety
    ///
    /// As of [`Self::device_show`].
    unsafe extern "C" fn kobject_store(
        kobj: *mut c::kobject,
        attr: *mut c::attribute,
        buffer: *const c_char,
        count: usize,
    ) -> isize {
        // SAFETY: As in `device_store`.
        unsafe { Self::store(Node::data(kobj), attr, buffer, count) }
    }
}
