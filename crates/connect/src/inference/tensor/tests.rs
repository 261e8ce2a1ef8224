use serde_json::json;

use super::*;

#[test]
fn every_datatype_survives_json_and_bytes() {
    let rows = [
        (Datatype::Bool, json!([[true, false]])),
        (Datatype::Uint8, json!([[0, 255]])),
        (Datatype::Uint16, json!([[0, 65535]])),
        (Datatype::Uint32, json!([[0, 4294967295_u32]])),
        (Datatype::Uint64, json!([[0, u64::MAX]])),
        (Datatype::Int8, json!([[-128, 127]])),
        (Datatype::Int16, json!([[-32768, 32767]])),
        (Datatype::Int32, json!([[i32::MIN, i32::MAX]])),
        (Datatype::Int64, json!([[i64::MIN, i64::MAX]])),
        (Datatype::Fp16, json!([[0.5, -2.0]])),
        (Datatype::Bf16, json!([[0.5, -2.0]])),
        (Datatype::Fp32, json!([[0.1, -1e30]])),
        (Datatype::Fp64, json!([[0.1, -1e300]])),
        (Datatype::Bytes, json!([["tide", {"base64": "/wA="}]])),
    ];
    assert_eq!(rows.len(), Datatype::ALL.len());
    for (datatype, value) in rows {
        let tensor = Tensor::from_json("x", datatype, None, &value).expect("a tensor");
        assert_eq!(tensor.shape(), [1, 2], "{datatype}");
        assert_eq!(tensor.to_json(), value, "{datatype}");
        let raw = tensor.to_raw();
        let again = Tensor::from_raw("x", datatype, &[1, 2], &raw).expect("the same");
        assert_eq!(again, tensor, "{datatype}");
        assert_eq!(datatype.name().parse(), Ok(datatype));
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let rows = [
        (
            Datatype::Uint8,
            json!([1, 256]),
            "[1]: expected UINT8, found 256",
        ),
        (
            Datatype::Int64,
            json!([1.5]),
            "[0]: expected INT64, found 1.5",
        ),
        (Datatype::Bool, json!(1), "expected BOOL, found 1"),
        (
            Datatype::Fp32,
            json!([["a"]]),
            "[0][0]: expected FP32, found \"a\"",
        ),
        (Datatype::Bytes, json!({"base64": "?"}), "base64: "),
        (
            Datatype::Fp32,
            json!([[1, 2], [3]]),
            "[1]: 1 elements where its neighbours have 2",
        ),
        (Datatype::Fp32, json!([[1], 2]), "[1]: expected an array"),
        (Datatype::Fp32, json!([1, [2]]), "[1]: expected no array"),
    ];
    for (datatype, value, expected) in rows {
        let error = Tensor::from_json("x", datatype, None, &value).expect_err("wrong");
        assert!(error.contains(expected), "{value}: {error}");
    }
    for (datatype, shape, raw, expected) in [
        (
            Datatype::Fp32,
            vec![1],
            vec![0; 3],
            "3 bytes are no whole number of FP32",
        ),
        (
            Datatype::Fp32,
            vec![2],
            vec![0; 4],
            "1 elements do not make the shape [2]",
        ),
        (
            Datatype::Fp32,
            vec![usize::MAX, 2],
            vec![0; 4],
            "do not make the shape",
        ),
        (
            Datatype::Bytes,
            vec![1],
            vec![1, 0, 0],
            "3 bytes are left over",
        ),
        (
            Datatype::Bytes,
            vec![1],
            vec![2, 0, 0, 0, 9],
            "an element of 2 bytes",
        ),
    ] {
        let error = Tensor::from_raw("x", datatype, &shape, &raw).expect_err("wrong");
        assert!(error.contains(expected), "{raw:?}: {error}");
    }
}

#[test]
fn rows_are_joined_and_come_apart_again() {
    let of = |datatype, value| Tensor::from_json("x", datatype, None, &value).expect("a tensor");
    for (datatype, first, second) in [
        (Datatype::Int32, json!([[1, 2]]), json!([[3, 4], [5, 6]])),
        (
            Datatype::Bytes,
            json!([["a", "b"]]),
            json!([["c", "d"], ["e", "f"]]),
        ),
    ] {
        let (first, second) = (of(datatype, first), of(datatype, second));
        let joined = Tensor::concat(&[first.clone(), second]).expect("one tensor");
        assert_eq!(joined.shape(), [3, 2]);
        let rows = joined.split(3).expect("three rows");
        assert_eq!(rows[0].to_json(), first.to_json()[0]);
        assert_eq!(rows[2].shape(), [2]);
        assert!(joined.split(2).expect_err("three").contains("for 2 items"));
    }
    let unlike = Tensor::concat(&[
        of(Datatype::Int32, json!([[1, 2]])),
        of(Datatype::Int32, json!([[1]])),
    ]);
    assert!(
        unlike
            .expect_err("another width")
            .contains("are not rows of one tensor")
    );
}

#[test]
fn numbers_of_any_type_are_vectors() {
    let of = |datatype, value| Tensor::from_json("x", datatype, None, &value).expect("a tensor");
    let expected = Some(vec![vec![1.0, 2.0], vec![3.0, 4.0]]);
    for datatype in [
        Datatype::Fp32,
        Datatype::Fp64,
        Datatype::Fp16,
        Datatype::Int8,
    ] {
        let tensor = of(datatype, json!([[1, 2], [3, 4]]));
        assert_eq!(tensor.vectors(), expected, "{datatype}");
    }
    let vectors = Tensor::of_vectors("v", expected.as_deref().expect("two"));
    assert_eq!(
        (vectors.shape(), vectors.vectors()),
        (&[2, 2][..], expected)
    );
    assert_eq!(of(Datatype::Bytes, json!(["a"])).vectors(), None);
    assert_eq!(Datatype::of(&json!([[1]])), Datatype::Int64);
    assert_eq!(Datatype::of(&json!([1.5])), Datatype::Fp32);
    assert_eq!(Datatype::of(&json!("a")), Datatype::Bytes);
}
