//! Compiles `proto/` into clients and servers, without a `protoc` on the machine.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use prost_types::{DescriptorProto, FileDescriptorSet};

/// Messages whose fields may hold credentials; they print themselves by hand, in `src/redact.rs`.
const NO_DEBUG: [&str; 13] = [
    ".common.Data",
    ".common.PEMEncodedCertificateAndKey",
    ".common.PEMEncodedKey",
    ".cosi.resource.Spec",
    ".machine.ApplyConfigurationRequest",
    ".machine.ApplyConfiguration",
    ".machine.DebugContainerRunRequestSpec",
    ".machine.GenerateClientConfiguration",
    ".machine.GenerateConfiguration",
    ".machine.ImageServiceCredentials",
    ".machine.MetaWriteRequest",
    ".securityapi.CertificateRequest",
    ".securityapi.CertificateResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    let mut descriptors = protox::compile(&files, [&root])?;
    forget_deprecations(&mut descriptors);
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .generate_default_stubs(true)
        .bytes(".common.Data.bytes")
        .skip_debug(NO_DEBUG)
        .enum_attribute(".machine.ApplyConfigurationRequest.Mode", "#[derive(Debug)]")
        .enum_attribute(".machine.DebugContainerRunRequestSpec.Profile", "#[derive(Debug)]")
        .include_file("talos_api.rs")
        .compile_fds(descriptors)?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

/// Talos 1.14 deprecates what every client of 1.12 and 1.13 must read; the generated code shall not warn about that.
fn forget_deprecations(descriptors: &mut FileDescriptorSet) {
    for file in &mut descriptors.file {
        file.message_type.iter_mut().for_each(forget_in_message);
        let values = file.enum_type.iter_mut().flat_map(|of| &mut of.value);
        values.for_each(|value| value.options = None);
        let methods = file.service.iter_mut().flat_map(|service| &mut service.method);
        methods.for_each(|method| method.options = None);
    }
}

fn forget_in_message(message: &mut DescriptorProto) {
    for field in &mut message.field {
        field.options.iter_mut().for_each(|options| options.deprecated = None);
    }
    let values = message.enum_type.iter_mut().flat_map(|of| &mut of.value);
    values.for_each(|value| value.options = None);
    message.nested_type.iter_mut().for_each(forget_in_message);
}
