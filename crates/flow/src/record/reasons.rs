//! What our reasons are in Hubble's words. One exhaustive list.

use abi::Reason;

use crate::proto::flow::DropReason;

/// Hubble's reason that says most of ours; `None` where the packet was not dropped.
pub(super) fn drop_reason(reason: Reason) -> Option<DropReason> {
    Some(match reason {
        Reason::RefusedTcp
        | Reason::RefusedUdp
        | Reason::RefusedSctp
        | Reason::DroppedUnanswerable
        | Reason::DroppedReset => DropReason::ServiceBackendNotFound,
        Reason::DroppedTruncated | Reason::DroppedLength | Reason::DroppedDataOffset => {
            DropReason::CtTruncatedOrInvalidHeader
        }
        Reason::DroppedVersion
        | Reason::DroppedHeaderLength
        | Reason::DroppedHeaderChecksum
        | Reason::DroppedSourceRoute
        | Reason::DroppedFragment
        | Reason::DroppedZeroPort => DropReason::InvalidPacketDropped,
        Reason::DroppedExtensionChain => DropReason::InvalidIpv6ExtensionHeader,
        Reason::DroppedSource | Reason::DroppedLand => DropReason::InvalidSourceIp,
        // Whose text is "Fragmentation needed" by now.
        Reason::AnsweredTooBig => DropReason::CtMissingTcpAckFlag,
        Reason::DroppedSourceRange => DropReason::DeniedByLbSrcRangeCheck,
        Reason::DroppedPolicyEgress | Reason::DroppedPolicyIngress => DropReason::PolicyDenied,
        Reason::DroppedNoPort | Reason::DroppedNoNodeAddress => DropReason::NoMappingForNatMasquerade,
        Reason::DroppedTableFull => DropReason::CtMapInsertionFailed,
        Reason::DroppedInternal => DropReason::ErrorWritingToPacket,
        Reason::ForwardedEstablished
        | Reason::ForwardedXdp
        | Reason::ForwardedNew
        | Reason::ForwardedUpdated
        | Reason::ForwardedIcmpError
        | Reason::PassedProtocol
        | Reason::PassedUnparsed
        | Reason::PassedFragment
        | Reason::PassedUnrelated
        | Reason::PassedHandled
        | Reason::PassedTimeToLive
        | Reason::PassedTooBig => return None,
    })
}
