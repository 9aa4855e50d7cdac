//! The storage policies by name. They are recorded and answered; placement treats all as HOT.

use ringfs_protocol::messages::{
    BlockStoragePolicyProto, StorageTypeProto as Type, StorageTypesProto,
};

use crate::error::{NamenodeError, Result};

pub const HOT: u32 = 7;
pub const LAZY_PERSIST: u32 = 15;

struct Policy {
    id: u32,
    name: &'static str,
    creation: &'static [Type],
    creation_fallback: &'static [Type],
    replication_fallback: &'static [Type],
}

const POLICIES: [Policy; 6] = [
    Policy {
        id: LAZY_PERSIST,
        name: "LAZY_PERSIST",
        creation: &[Type::RamDisk, Type::Disk],
        creation_fallback: &[Type::Disk],
        replication_fallback: &[Type::Disk],
    },
    Policy {
        id: 12,
        name: "ALL_SSD",
        creation: &[Type::Ssd],
        creation_fallback: &[Type::Disk],
        replication_fallback: &[Type::Disk],
    },
    Policy {
        id: 10,
        name: "ONE_SSD",
        creation: &[Type::Ssd, Type::Disk],
        creation_fallback: &[Type::Ssd, Type::Disk],
        replication_fallback: &[Type::Ssd, Type::Disk],
    },
    Policy {
        id: HOT,
        name: "HOT",
        creation: &[Type::Disk],
        creation_fallback: &[],
        replication_fallback: &[Type::Archive],
    },
    Policy {
        id: 5,
        name: "WARM",
        creation: &[Type::Disk, Type::Archive],
        creation_fallback: &[Type::Disk, Type::Archive],
        replication_fallback: &[Type::Disk, Type::Archive],
    },
    Policy {
        id: 2,
        name: "COLD",
        creation: &[Type::Archive],
        creation_fallback: &[],
        replication_fallback: &[],
    },
];

pub fn all() -> Vec<BlockStoragePolicyProto> {
    POLICIES.iter().map(to_proto).collect()
}

/// The policy with this id; HOT for "unspecified".
pub fn by_id(id: u32) -> BlockStoragePolicyProto {
    let hot = &POLICIES[3];
    to_proto(POLICIES.iter().find(|policy| policy.id == id).unwrap_or(hot))
}

pub fn id_of(name: &str) -> Result<u32> {
    let policy = POLICIES.iter().find(|policy| policy.name.eq_ignore_ascii_case(name));
    policy.map(|policy| policy.id).ok_or_else(|| {
        NamenodeError::HadoopIllegalArgument(format!(
            "Cannot find a block policy with the name {name}"
        ))
    })
}

fn to_proto(policy: &Policy) -> BlockStoragePolicyProto {
    let types = |types: &[Type]| StorageTypesProto {
        storage_types: types.iter().map(|storage_type| *storage_type as i32).collect(),
    };
    BlockStoragePolicyProto {
        policy_id: policy.id,
        name: policy.name.to_owned(),
        creation_policy: types(policy.creation),
        creation_fallback_policy: Some(types(policy.creation_fallback)),
        replication_fallback_policy: Some(types(policy.replication_fallback)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_found_by_name_and_id() {
        assert_eq!(id_of("hot").unwrap(), HOT);
        assert_eq!(by_id(0).name, "HOT");
        assert_eq!(by_id(id_of("ALL_SSD").unwrap()).name, "ALL_SSD");
        assert!(matches!(id_of("nope"), Err(NamenodeError::HadoopIllegalArgument(_))));
    }
}
