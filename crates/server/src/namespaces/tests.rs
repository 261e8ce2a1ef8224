use super::*;
use tidemill_store::AttributeType;

fn details() -> Details {
    let custom = Custom::from([("Mine".to_owned(), AttributeType::KeywordList)]);
    Details {
        id: [7; 16],
        name: "name".to_owned(),
        state: NamespaceState::Registered,
        description: "about".to_owned(),
        owner_email: "a@b".to_owned(),
        data: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        retention: Duration::from_secs(86_400),
        bad_binaries: BTreeMap::from([("sum".to_owned(), BadBinary::default())]),
        schema: schema_of(&custom),
        custom_search_attributes: custom,
    }
}

#[test]
fn records_survive_a_round_trip() {
    let read = decode(&encode(&details())).unwrap();
    assert_eq!(*read, details());
    assert!(read.search_attributes().is_settable("Mine"));
}

#[test]
fn damaged_and_newer_records_are_refused() {
    let newer = Record {
        version: RECORD_VERSION + 1,
        id: vec![0; 16],
        ..Default::default()
    };
    let no_id = Record {
        version: RECORD_VERSION,
        ..Default::default()
    };
    for bytes in [newer.encode_to_vec(), no_id.encode_to_vec(), vec![0xff; 9]] {
        assert!(matches!(decode(&bytes), Err(Error::DataLoss(_))));
    }
}

#[test]
fn state_changes() {
    use NamespaceState::{Deleted, Deprecated, Registered};
    for (from, to, ok) in [
        (Registered, Registered, true),
        (Registered, Deprecated, true),
        (Registered, Deleted, true),
        (Deprecated, Deleted, true),
        (Deprecated, Registered, false),
        (Deleted, Registered, false),
        (Deleted, Deprecated, false),
    ] {
        let mut details = Details {
            state: from,
            ..details()
        };
        let result = apply(
            &mut details,
            Update {
                state: Some(to),
                ..Default::default()
            },
        );
        assert_eq!(result.is_ok(), ok, "{from:?} -> {to:?}");
        assert_eq!(details.state, if ok { to } else { from });
    }
}

#[test]
fn updates_merge() {
    let mut d = details();
    let update = Update {
        description: "new".to_owned(),
        data: BTreeMap::from([("k2".to_owned(), "v2".to_owned())]),
        delete_bad_binary: "sum".to_owned(),
        ..Default::default()
    };
    apply(&mut d, update).unwrap();
    assert_eq!(
        (d.description.as_str(), d.owner_email.as_str()),
        ("new", "a@b")
    );
    assert_eq!(d.data.len(), 2);
    assert!(d.bad_binaries.is_empty());
    let again = Update {
        delete_bad_binary: "sum".to_owned(),
        ..Default::default()
    };
    assert!(apply(&mut d, again).is_err());
    let short = Update {
        retention: Some(Duration::from_secs(59)),
        ..Default::default()
    };
    assert!(apply(&mut d, short).is_err());
}
