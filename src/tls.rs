//! The one cryptography provider of this process. `reqwest` is built without one, so that no C code but ring's is needed.

/// Makes ring the provider of everything that speaks TLS here. Repeating it does nothing.
pub(crate) fn install() {
    // It errs only when there is a provider already, which is then as good.
    drop(rustls::crypto::ring::default_provider().install_default());
}
