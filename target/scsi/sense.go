package scsi

import "encoding/binary"

// senseKey is the SENSE KEY field (SPC-5 §4.5.6).
type senseKey uint8

const (
	keyNoSense        senseKey = 0x0
	keyNotReady       senseKey = 0x2
	keyMediumError    senseKey = 0x3
	keyHardwareError  senseKey = 0x4
	keyIllegalRequest senseKey = 0x5
	keyUnitAttention  senseKey = 0x6
	keyDataProtect    senseKey = 0x7
	keyCopyAborted    senseKey = 0xa
	keyAborted        senseKey = 0xb
	keyMiscompare     senseKey = 0xe
)

// additional is an additional sense code with its qualifier: ASC<<8 | ASCQ.
type additional uint16

const (
	ascNone                     additional = 0x0000
	ascNotReadyStopped          additional = 0x0402 // initializing command required
	ascTransitioning            additional = 0x040a
	ascStandby                  additional = 0x040b
	ascUnavailable              additional = 0x040c
	ascManualIntervention       additional = 0x0403
	ascOperationInProgress      additional = 0x0016
	ascUnreachableCopyTarget    additional = 0x0804
	ascThirdPartyFailure        additional = 0x0d01
	ascSavingNotSupported       additional = 0x3900
	ascUnreadable               additional = 0x1100
	ascWriteError               additional = 0x0c00
	ascParameterListLength      additional = 0x1a00
	ascMiscompareVerify         additional = 0x1d00
	ascInvalidOpcode            additional = 0x2000
	ascLBAOutOfRange            additional = 0x2100
	ascInvalidFieldCDB          additional = 0x2400
	ascLUNotSupported           additional = 0x2500
	ascInvalidFieldParam        additional = 0x2600
	ascParamNotSupported        additional = 0x2601
	ascTooManyTargetDescriptors additional = 0x2606
	ascUnsupportedTargetDesc    additional = 0x2607
	ascTooManySegments          additional = 0x2608
	ascUnsupportedSegmentDesc   additional = 0x2609
	ascInlineDataTooLong        additional = 0x260b
	ascWriteProtected           additional = 0x2700
	ascSoftwareWriteProtected   additional = 0x2702
	ascPermanentWriteProtect    additional = 0x2705
	ascSpaceAllocationFailed    additional = 0x2707
	ascCopyTargetUnreachable    additional = 0x0d02
	ascInternalFailure          additional = 0x4400
	ascDataPhase                additional = 0x4b00
	ascInvalidFieldInIU         additional = 0x0e03
	ascInsufficientResources    additional = 0x5503
	ascSTPGFailed               additional = 0x670a
)

// sense is sense data before it is put into a format. The zero value is "no
// error", so handlers return it for success.
type sense struct {
	key senseKey
	asc additional

	ptr      uint16 // SENSE KEY SPECIFIC: byte of the CDB or parameter list at fault
	ptrBit   uint8  // its leftmost bit at fault, 0..7, when ptrHasBit
	hasPtr   bool
	ptrInCDB bool
	hasBit   bool

	hasInfo bool
	info    uint64 // INFORMATION: LBA or byte offset, as the condition defines it

	cmdInfo uint64 // COMMAND-SPECIFIC INFORMATION, 0 for none
}

// ok reports whether s means success.
func (s *sense) ok() bool { return s.key == keyNoSense && s.asc == ascNone }

// illegal is ILLEGAL REQUEST with no pointer.
func illegal(asc additional) sense { return sense{key: keyIllegalRequest, asc: asc} }

// badCDB is INVALID FIELD IN CDB with the byte and the leftmost bad bit.
func badCDB(at int, bit uint8) sense {
	return sense{key: keyIllegalRequest, asc: ascInvalidFieldCDB, hasPtr: true, ptrInCDB: true, ptr: uint16(at), hasBit: true, ptrBit: bit}
}

// badCDBByte is INVALID FIELD IN CDB for a field that begins at a byte.
func badCDBByte(at int) sense {
	return sense{key: keyIllegalRequest, asc: ascInvalidFieldCDB, hasPtr: true, ptrInCDB: true, ptr: uint16(at)}
}

// badParam is INVALID FIELD IN PARAMETER LIST for a field that begins at byte
// at of the Data-Out buffer.
func badParam(at int) sense {
	return sense{key: keyIllegalRequest, asc: ascInvalidFieldParam, hasPtr: true, ptr: uint16(min(at, 0xffff))}
}

// withInfo adds the INFORMATION field.
func (s sense) withInfo(v uint64) sense {
	s.hasInfo, s.info = true, v
	return s
}

// keySpecific is the three SENSE KEY SPECIFIC bytes of a field pointer
// (SPC-5 §4.5.2.4.2), SKSV first.
func (s *sense) keySpecific() [3]byte {
	b := byte(0x80)
	if s.ptrInCDB {
		b |= 0x40
	}
	if s.hasBit {
		b |= 0x08 | s.ptrBit&7
	}
	return [3]byte{b, byte(s.ptr >> 8), byte(s.ptr)}
}

// fixedSenseLen is the length of the fixed format as written here.
const fixedSenseLen = 18

// encode writes s as current sense data in descriptor (72h) or fixed (70h)
// format (SPC-5 §4.5) and returns its length, at most SenseMax.
func (s *sense) encode(b []byte, descriptor bool) int {
	if !descriptor {
		clear(b[:fixedSenseLen])
		b[0] = 0x70
		b[2] = byte(s.key)
		// VALID stays 0 for what does not fit into four bytes (SPC-5 §4.5.3).
		if s.hasInfo && s.info <= 0xffffffff {
			b[0] |= 0x80
			binary.BigEndian.PutUint32(b[3:], uint32(s.info))
		}
		b[7] = fixedSenseLen - 8
		binary.BigEndian.PutUint32(b[8:], uint32(s.cmdInfo))
		b[12], b[13] = byte(s.asc>>8), byte(s.asc)
		if s.hasPtr {
			k := s.keySpecific()
			copy(b[15:], k[:])
		}
		return fixedSenseLen
	}
	clear(b[:8])
	b[0] = 0x72
	b[1] = byte(s.key)
	b[2], b[3] = byte(s.asc>>8), byte(s.asc)
	n := 8
	if s.hasInfo {
		d := b[n : n+12]
		clear(d)
		d[0], d[1], d[2] = 0x00, 0x0a, 0x80
		binary.BigEndian.PutUint64(d[4:], s.info)
		n += 12
	}
	if s.cmdInfo != 0 {
		d := b[n : n+12]
		clear(d)
		d[0], d[1] = 0x01, 0x0a
		binary.BigEndian.PutUint64(d[4:], s.cmdInfo)
		n += 12
	}
	if s.hasPtr {
		d := b[n : n+8]
		clear(d)
		d[0], d[1] = 0x02, 0x06
		k := s.keySpecific()
		copy(d[4:], k[:])
		n += 8
	}
	b[7] = byte(n - 8)
	return n
}
