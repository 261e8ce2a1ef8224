//! Generates the list of RPCs of Temporal's API, and the client of the service that tools call, from
//! the descriptor set that the `temporalio-protos` crate exports. Messages stay that crate's, so no
//! `.proto` file is copied and no `protoc` is needed. Our own service for operators is generated
//! whole, from `proto/`.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::{env, error, fs};

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

/// The packages whose services Tidemill serves.
const SERVICES: [&str; 3] = [
    "temporal.api.workflowservice.v1",
    "temporal.api.operatorservice.v1",
    OWN,
];
/// The one of Temporal's that tools call.
const CALLED: &str = SERVICES[0];
const OWN: &str = "tidemill.operator.v1";
const OWN_FILE: &str = "tidemill/operator/v1/maintenance.proto";

/// Files that no service imports but whose messages travel inside `google.protobuf.Any`.
const CARRIED_IN_ANY: [&str; 3] = [
    "temporal/api/errordetails/v1/message.proto",
    "temporal/api/update/v1/message.proto",
    "google/rpc/status.proto",
];

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_TEMPORALIO_PROTOS_DESCRIPTOR_PATH");
    let exported = env::var("DEP_TEMPORALIO_PROTOS_DESCRIPTOR_PATH")?;
    println!("cargo:rerun-if-changed=proto");
    let mut all = FileDescriptorSet::decode(fs::read(exported)?.as_slice())?;
    let own = protox::compile([OWN_FILE], ["proto"])?;
    all.file.extend(own.file.iter().cloned());

    let kept = reachable(&all);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), kept.encode_to_vec())?;
    fs::write(out.join("methods.rs"), methods(&all))?;

    tonic_prost_build::configure()
        .build_transport(false)
        .build_server(false)
        .extern_path(".temporal.api", "::temporalio_protos::temporal::api")
        .compile_fds(called_service(all))?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(own)?;
    Ok(())
}

/// The called service without the messages beside it: those are reached by their extern path.
fn called_service(all: FileDescriptorSet) -> FileDescriptorSet {
    let file = all
        .file
        .into_iter()
        .filter(|file| file.package() == CALLED && !file.service.is_empty())
        .map(|file| FileDescriptorProto {
            message_type: Vec::new(),
            enum_type: Vec::new(),
            extension: Vec::new(),
            dependency: Vec::new(),
            public_dependency: Vec::new(),
            weak_dependency: Vec::new(),
            ..file
        })
        .collect();
    FileDescriptorSet { file }
}

/// A slice literal of every RPC's path and name.
fn methods(all: &FileDescriptorSet) -> String {
    let mut out = String::from("&[\n");
    for file in all
        .file
        .iter()
        .filter(|file| SERVICES.contains(&file.package()))
    {
        for service in &file.service {
            for method in &service.method {
                let (package, service, name) = (file.package(), service.name(), method.name());
                out += &format!("(\"/{package}.{service}/{name}\", \"{name}\"),\n");
            }
        }
    }
    out + "]"
}

/// The files that the services and the messages carried in `Any` need, without comments:
/// reflection and JSON use them.
fn reachable(all: &FileDescriptorSet) -> FileDescriptorSet {
    let by_name: HashMap<&str, &FileDescriptorProto> =
        all.file.iter().map(|file| (file.name(), file)).collect();
    let mut wanted: HashSet<&str> = HashSet::new();
    let mut pending: Vec<&str> = all
        .file
        .iter()
        .filter(|file| SERVICES.contains(&file.package()))
        .map(|file| file.name())
        .chain(CARRIED_IN_ANY)
        .collect();
    while let Some(name) = pending.pop() {
        if let Some(file) = by_name.get(name)
            && wanted.insert(name)
        {
            pending.extend(file.dependency.iter().map(String::as_str));
        }
    }
    let file = all
        .file
        .iter()
        .filter(|file| wanted.contains(file.name()))
        .map(|file| FileDescriptorProto {
            source_code_info: None,
            ..file.clone()
        })
        .collect();
    FileDescriptorSet { file }
}
