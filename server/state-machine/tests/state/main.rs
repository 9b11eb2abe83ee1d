//! What the replicated state promises, rule by rule, and against a reference model.

mod reference;
mod world;
