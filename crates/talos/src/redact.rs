//! `Debug` for the messages that may hold credentials: it tells sizes and names, never contents.

use std::fmt::{Debug, Formatter, Result};

use crate::proto::{common, cosi, machine, securityapi};

impl Debug for common::Data {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Data").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Debug for common::PemEncodedCertificateAndKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("PemEncodedCertificateAndKey").field("crt", &self.crt.len()).finish_non_exhaustive()
    }
}

impl Debug for common::PemEncodedKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("PemEncodedKey").finish_non_exhaustive()
    }
}

impl Debug for cosi::resource::Spec {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Spec").field("proto_spec", &self.proto_spec.len()).finish_non_exhaustive()
    }
}

impl Debug for machine::ApplyConfigurationRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("ApplyConfigurationRequest")
            .field("data", &self.data.len())
            .field("mode", &self.mode())
            .field("dry_run", &self.dry_run)
            .finish_non_exhaustive()
    }
}

/// `mode_details` of a dry run is a diff of configurations, which may show keys.
impl Debug for machine::ApplyConfiguration {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("ApplyConfiguration")
            .field("mode", &self.mode())
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

impl Debug for machine::DebugContainerRunRequestSpec {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("DebugContainerRunRequestSpec").field("image_name", &self.image_name).finish_non_exhaustive()
    }
}

impl Debug for machine::GenerateClientConfiguration {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("GenerateClientConfiguration").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

impl Debug for machine::GenerateConfiguration {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("GenerateConfiguration").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

impl Debug for machine::ImageServiceCredentials {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("ImageServiceCredentials").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Debug for machine::MetaWriteRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("MetaWriteRequest").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Debug for securityapi::CertificateRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("CertificateRequest").field("csr", &self.csr.len()).finish()
    }
}

impl Debug for securityapi::CertificateResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("CertificateResponse").field("crt", &self.crt.len()).finish_non_exhaustive()
    }
}
