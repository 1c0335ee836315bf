//! Enums whose numbers are on the wire: each variant has the number of its line.

/// Declares such an enum, all of its variants, and the way back from a number.
macro_rules! numbered {
    ($(#[$of:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$of])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// Every one, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The one with this number.
            #[inline(always)]
            pub fn from_number(number: u8) -> Option<Self> {
                Self::ALL.get(usize::from(number)).copied()
            }
        }
    };
}
pub(crate) use numbered;
