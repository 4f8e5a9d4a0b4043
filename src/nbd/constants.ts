/**
 * The numbers of the NBD protocol, by their names in the specification (NetworkBlockDevice/nbd,
 * doc/proto.md), and those of the private option that two xNBD ends share (docs/protocol.md).
 */

export const NBD_DEFAULT_PORT = 10809;

/** "NBDMAGIC", the first eight bytes of every server greeting. */
export const NBD_MAGIC = 0x4e42444d41474943n;
/** The second eight bytes of an oldstyle greeting. */
export const NBD_OLDSTYLE_MAGIC = 0x00420281861253n;
/** "IHAVEOPT", newstyle greeting and option magic. */
export const NBD_OPTS_MAGIC = 0x49484156454f5054n;
export const NBD_OPTION_REPLY_MAGIC = 0x3e889045565a9n;
export const NBD_REQUEST_MAGIC = 0x25609513;
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698;
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef;
/**
 * The extended headers, of 32 bytes each way, are those of the specification's branch extension-ext-header.
 */
export const NBD_EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const NBD_EXTENDED_REPLY_MAGIC = 0x6e8a278c;

/** Strings (export names, messages) never exceed this many bytes. */
export const NBD_MAX_STRING = 4096;
/** Largest READ or WRITE that we accept and send, in bytes: what every known client stays within. */
export const NBD_MAX_PAYLOAD = 32 * 1024 * 1024;

/** Largest range of an XNBD_HASH, and length of its answer, in bytes. */
export const HASH_MAX = 1024 * 1024;
export const HASH_LENGTH = 32;

export const REQUEST_HEADER_LENGTH = 28;
export const EXTENDED_REQUEST_HEADER_LENGTH = 32;
export const SIMPLE_REPLY_LENGTH = 16;
export const STRUCTURED_CHUNK_HEADER_LENGTH = 20;
export const EXTENDED_CHUNK_HEADER_LENGTH = 32;
export const OPTION_HEADER_LENGTH = 16;
export const OPTION_REPLY_HEADER_LENGTH = 20;

export const HandshakeFlag = { FIXED_NEWSTYLE: 1, NO_ZEROES: 2 } as const;

export const TransmissionFlag = {
  HAS_FLAGS: 1 << 0,
  READ_ONLY: 1 << 1,
  SEND_FLUSH: 1 << 2,
  SEND_FUA: 1 << 3,
  ROTATIONAL: 1 << 4,
  SEND_TRIM: 1 << 5,
  SEND_WRITE_ZEROES: 1 << 6,
  SEND_DF: 1 << 7,
  CAN_MULTI_CONN: 1 << 8,
  SEND_RESIZE: 1 << 9,
  SEND_CACHE: 1 << 10,
  SEND_FAST_ZERO: 1 << 11,
} as const;

export const Option = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
  /** Private: attach to an origin with a lease. "XNBD". */
  XNBD_ATTACH: 0x584e4244,
  /** Private, first of all: a gateway says which peer it brings. */
  XNBD_PEER: 0x584e4245,
  /** Private, once attached: what else both ends understand. */
  XNBD_FEATURES: 0x584e4246,
} as const;

const REP_ERROR = 2 ** 31;

export const OptionReply = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  /** Private: the origin's identity, in answer to XNBD_ATTACH. */
  XNBD_ATTACHED: 0x584e4244,
  /** Private: what both ends understand, in answer to XNBD_FEATURES. */
  XNBD_FEATURES: 0x584e4246,
  ERR_UNSUP: REP_ERROR + 1,
  ERR_POLICY: REP_ERROR + 2,
  ERR_INVALID: REP_ERROR + 3,
  ERR_PLATFORM: REP_ERROR + 4,
  ERR_TLS_REQD: REP_ERROR + 5,
  ERR_UNKNOWN: REP_ERROR + 6,
  ERR_SHUTDOWN: REP_ERROR + 7,
  ERR_BLOCK_SIZE_REQD: REP_ERROR + 8,
  ERR_TOO_BIG: REP_ERROR + 9,
  /** Private, in answer to XNBD_ATTACH: the export has retired, and will never serve again. */
  XNBD_ERR_RETIRED: REP_ERROR + 0x584e4244,
  /** Private, in answer to XNBD_ATTACH: this lease will never be good again; what its holder has is void. */
  XNBD_ERR_VOID: REP_ERROR + 0x584e4245,
  ERR_EXT_HEADER_REQD: REP_ERROR + 10,
} as const;

export const Info = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

export const Command = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
  RESIZE: 8,
  /**
   * Private, on a connection that attached: fence the origin. Answered once writes in flight are drained and
   * synced.
   */
  XNBD_TAKEOVER: 0x5801,
  /** Private: end the lease and lift the fence. */
  XNBD_GIVE_BACK: 0x5802,
  /** Private: the holder has every block; the origin's image is history. */
  XNBD_RETIRE: 0x5803,
  /** Private: answered when the source's client is gone (at once if it is already). */
  XNBD_WAIT_GONE: 0x5804,
  /** Private: the SHA-256 of a range instead of its data. */
  XNBD_HASH: 0x5805,
  /** Private: answered at once. */
  XNBD_PING: 0x5806,
} as const;

export const CommandFlag = {
  FUA: 1,
  NO_HOLE: 2,
  DF: 4,
  REQ_ONE: 8,
  FAST_ZERO: 16,
  /** With extended headers: `length` is that of a payload which follows. */
  PAYLOAD_LEN: 32,
  /** Private, of a READ where Feature.BACKGROUND was agreed: no client waits for it. */
  XNBD_BACKGROUND: 1 << 15,
} as const;

export const ReplyFlag = { DONE: 1 } as const;

const CHUNK_ERROR = 2 ** 15;

export const ReplyChunk = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  BLOCK_STATUS_EXT: 6,
  ERROR: CHUNK_ERROR + 1,
  ERROR_OFFSET: CHUNK_ERROR + 2,
} as const;

/** Flags of one extent in the context `base:allocation`. */
export const AllocationFlag = { HOLE: 1, ZERO: 2 } as const;
export const BASE_ALLOCATION = 'base:allocation';

/** Errors as NBD puts them on the wire; 0 is success. */
export const Errno = {
  OK: 0,
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;
