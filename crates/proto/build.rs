//! Generates the services of Temporal's API from the descriptor set that the
//! `temporalio-protos` crate exports. Messages stay that crate's: only traits and clients are
//! made here, so no `.proto` file is copied and no `protoc` is needed. Our own service for operators
//! is generated whole, from `proto/`.

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
const OWN: &str = "tidemill.operator.v1";
const OWN_FILE: &str = "tidemill/operator/v1/maintenance.proto";

/// The answers that are mostly history.
const WITH_HISTORY: [&str; 2] = [
    "PollWorkflowTaskQueueResponse",
    "GetWorkflowExecutionHistoryResponse",
];

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

    let services = services_only(all);
    let mut server = generator().build_client(false).generate_default_stubs(true);
    // A server has these histories in bytes.
    for message in WITH_HISTORY {
        server = server.extern_path(
            format!(".temporal.api.workflowservice.v1.{message}"),
            format!("crate::with_history::{message}"),
        );
    }
    server.compile_fds(services.clone())?;
    let client = out.join("client");
    fs::create_dir_all(&client)?;
    generator()
        .build_server(false)
        .out_dir(client)
        .compile_fds(services)?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(own)?;
    Ok(())
}

/// For Temporal's services: their messages are another crate's.
fn generator() -> tonic_prost_build::Builder {
    tonic_prost_build::configure()
        .build_transport(false)
        .extern_path(".temporal.api", "::temporalio_protos::temporal::api")
}

/// The services without the messages beside them: those are reached by their extern path.
fn services_only(all: FileDescriptorSet) -> FileDescriptorSet {
    let file = all
        .file
        .into_iter()
        .filter(|file| SERVICES.contains(&file.package()) && file.package() != OWN)
        .filter(|file| !file.service.is_empty())
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
