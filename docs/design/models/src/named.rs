//! Structs whose fields are set by their names: a scenario says in words what may happen in it, and which rule is missing.

/// Declares a struct whose fields are all of one type, with a value that all of them have at first.
macro_rules! named {
    (
        $(#[$about:meta])*
        $vis:vis struct $name:ident: $type:ty = $value:literal {
            $($(#[$doc:meta])* $field:ident,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        $vis struct $name {
            $($(#[$doc])* $vis $field: $type,)*
        }

        impl $name {
            /// Every field has the same value.
            $vis const ALL: Self = Self { $($field: $value,)* };

            /// The same with another value in one field.
            ///
            /// # Panics
            /// If there is no such field.
            $vis fn with(mut self, field: &str, value: $type) -> Self {
                match field {
                    $(stringify!($field) => self.$field = value,)*
                    _ => panic!("there is no {field}"),
                }
                self
            }
        }
    };
}

pub(crate) use named;
