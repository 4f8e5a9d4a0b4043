import koffi from 'koffi';

const PTRACE_DETACH = 17;
const PTRACE_SEIZE = 0x4206;
const PTRACE_INTERRUPT = 0x4207;

const libc = koffi.load(null);
const ptrace = libc.func('long ptrace(long request, int pid, void *address, void *data)');

/** Stops one thread of another process, and no other: signals would stop them all. @returns lets it go on */
export function freezeThread(tid: number): () => void {
  request(PTRACE_SEIZE, tid);
  request(PTRACE_INTERRUPT, tid);
  return () => request(PTRACE_DETACH, tid);
}

function request(what: number, tid: number): void {
  if (ptrace(what, tid, null, null) !== 0) throw new Error(`ptrace ${what} of thread ${tid}: refused`);
}
