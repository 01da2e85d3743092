//! Shared objects: structs of cells, declared by [`shm_struct!`](crate::shm_struct).

use crate::cell::{Scalar, SharedCell};

/// A field of a shared object, as tools see it.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Offset in the object, bytes.
    pub offset: usize,
    /// Size, bytes.
    pub size: usize,
}

/// A type that may be a field of a shared object.
///
/// # Safety
/// It consists of atomic words only, without padding; every bit pattern is valid; it has no destructor.
pub unsafe trait CellField: Sized + 'static {
    /// Stores zero in every word.
    fn clear(&self);
}

// SAFETY: one atomic word.
unsafe impl<T: Scalar + 'static> CellField for SharedCell<T> {
    fn clear(&self) {
        self.zero();
    }
}
// SAFETY: one atomic word.
#[cfg(not(loom))]
unsafe impl CellField for crate::Shared32 {
    fn clear(&self) {
        self.store(0, core::sync::atomic::Ordering::Relaxed);
    }
}
// SAFETY: one atomic word.
#[cfg(not(loom))]
unsafe impl CellField for crate::Shared64 {
    fn clear(&self) {
        self.store(0, core::sync::atomic::Ordering::Relaxed);
    }
}
// SAFETY: an array has no padding of its own.
unsafe impl<T: CellField, const N: usize> CellField for [T; N] {
    fn clear(&self) {
        self.iter().for_each(T::clear);
    }
}

/// A shared object. Only [`shm_struct!`](crate::shm_struct) implements it, and checks what it promises.
///
/// # Safety
/// The type is `repr(C)`, all fields are [`CellField`]s, and there is no padding.
pub unsafe trait Object: CellField {
    /// The type's name.
    const NAME: &'static str;
    /// The fields, in order.
    const FIELDS: &'static [Field];
    /// Changes when name, offset or size of a field changes.
    const HASH: u64;
    /// Stores zero in every field at or after byte `offset`.
    fn clear_from(&self, offset: usize);
}

/// FNV-1a over a string, for layout hashes.
pub const fn hash_str(mut h: u64, s: &str) -> u64 {
    let b = s.as_bytes();
    let mut i = 0;
    while i < b.len() {
        h = hash_u64(h, b[i] as u64);
        i += 1;
    }
    h
}

/// One step of the layout hash.
pub const fn hash_u64(h: u64, v: u64) -> u64 {
    (h ^ v).wrapping_mul(0x0000_0100_0000_01b3)
}

/// Start value of a layout hash.
pub const HASH_SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// Declares a shared object: the struct, the proof that it consists of cells without padding, its field table and its
/// layout hash.
///
/// ```
/// flyover_shm::shm_struct! {
///     /// A pair.
///     pub struct Pair {
///         /// First.
///         pub a: flyover_shm::SharedCell<u32>,
///         /// Second.
///         pub b: flyover_shm::Shared32,
///     }
/// }
/// assert_eq!(<Pair as flyover_shm::Object>::FIELDS.len(), 2);
/// ```
///
/// Padding does not compile:
///
/// ```compile_fail
/// flyover_shm::shm_struct! {
///     /// Padded.
///     pub struct Padded {
///         /// Four bytes, then a hole.
///         pub a: flyover_shm::Shared32,
///         /// Eight bytes.
///         pub b: flyover_shm::Shared64,
///     }
/// }
/// ```
///
/// Neither does a field that is not a cell:
///
/// ```compile_fail
/// flyover_shm::shm_struct! {
///     /// Plain.
///     pub struct Plain {
///         /// Not a cell.
///         pub a: u32,
///     }
/// }
/// ```
#[cfg(not(loom))]
#[macro_export]
macro_rules! shm_struct {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$fmeta:meta])* $fvis:vis $field:ident : $ty:ty),+ $(,)?
    }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug)]
        $vis struct $name {
            $($(#[$fmeta])* $fvis $field: $ty,)+
        }

        const _: () = {
            const fn field<T: $crate::CellField>() -> usize {
                size_of::<T>()
            }
            let sum = 0usize $(+ field::<$ty>())+;
            assert!(sum == size_of::<$name>(), "a shared object has padding");
        };

        // SAFETY: repr(C); the block above checked at compile time that every field is a CellField and that their
        // sizes add up to the struct's, so there is no padding.
        unsafe impl $crate::CellField for $name {
            fn clear(&self) {
                $($crate::CellField::clear(&self.$field);)+
            }
        }

        // SAFETY: as above.
        unsafe impl $crate::Object for $name {
            const NAME: &'static str = stringify!($name);
            const FIELDS: &'static [$crate::Field] = &[
                $($crate::Field {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($name, $field),
                    size: size_of::<$ty>(),
                },)+
            ];
            const HASH: u64 = {
                let mut h = $crate::object::hash_str($crate::object::HASH_SEED, stringify!($name));
                $(
                    h = $crate::object::hash_str(h, stringify!($field));
                    h = $crate::object::hash_u64(h, core::mem::offset_of!($name, $field) as u64);
                    h = $crate::object::hash_u64(h, size_of::<$ty>() as u64);
                )+
                h
            };
            fn clear_from(&self, offset: usize) {
                $(
                    if core::mem::offset_of!($name, $field) >= offset {
                        $crate::CellField::clear(&self.$field);
                    }
                )+
            }
        }
    };
}

/// The model-checked build: an ordinary struct, because loom's atomics are not plain words.
#[cfg(loom)]
#[macro_export]
macro_rules! shm_struct {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($fields:tt)+ }) => {
        $(#[$meta])*
        #[derive(Debug)]
        $vis struct $name { $($fields)+ }
    };
}
