/** What a client and this server have agreed on, and how far they have come. */

export interface Agreement {
  structuredReplies: boolean;
  /** Implies structured replies. */
  extendedHeaders: boolean;
  baseAllocation: boolean;
  attached: boolean;
  /** Feature bits. */
  features: number;
}

export type HandshakeState = 'haggling' | 'transmission' | 'closed';

/** A handshake as far as it has come. */
export interface HandshakeMemory {
  state: HandshakeState;
  agreement: Agreement;
  noZeroes: boolean;
  flagsSeen: boolean;
  options: number;
  contextExport: string | null;
  attachedExport: string | null;
}
