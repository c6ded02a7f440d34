//! The four ways to change an object by PATCH, and the bookkeeping of who owns which field.

pub(crate) mod apply;
pub(crate) mod fields;
pub(crate) mod ownership;
pub(crate) mod schema;
pub(crate) mod strategic;
