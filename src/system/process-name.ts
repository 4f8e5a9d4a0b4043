/** What `ps`, `top` and the kernel's log call this process, instead of «node». */
import { writeFileSync } from 'node:fs';

/** @param name the kernel keeps 15 bytes of it. The command line stays as it is. */
export function nameProcess(name: string): void {
  try {
    writeFileSync('/proc/self/comm', name);
  } catch {
    // Without /proc it has the name of its interpreter.
  }
}
