//! `backup`: a proven copy of one moment of a store.

pub mod names;
