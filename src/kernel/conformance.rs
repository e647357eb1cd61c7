macro_rules! suite {
    ($a:expr, $b:expr) => {};
}
pub(super) use suite;
