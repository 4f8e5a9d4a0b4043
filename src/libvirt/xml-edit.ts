/** Changes to parts of an XML text that leave the rest as it is, byte for byte. */
import { escapeXml, type XmlElement } from './xml-tree.ts';

/** What stands from `start` to `end` becomes `text`. */
export interface Edit {
  start: number;
  end: number;
  text: string;
}

/** @throws Error when two edits overlap. */
export function applyEdits(xml: string, edits: readonly Edit[]): string {
  let result = '';
  let at = 0;
  for (const { start, end, text } of [...edits].sort((a, b) => a.start - b.start)) {
    if (start < at) throw new Error(`two edits meet at offset ${start}`);
    result += xml.slice(at, start) + text;
    at = end;
  }
  return result + xml.slice(at);
}

/**
 * Gives an element these attributes: a value that is there is replaced where it stands, a new one goes to the
 * end of the start tag.
 */
export function setAttributes(
  xml: string,
  element: XmlElement,
  wanted: Readonly<Record<string, string>>,
): Edit {
  const tag = xml.slice(element.start, element.contentStart);
  const missing = new Map(Object.entries(wanted));
  const attribute = /\s+([^\s=]+)\s*=\s*("[^"]*"|'[^']*')/y;
  attribute.lastIndex = 1 + element.name.length;
  let text = tag.slice(0, attribute.lastIndex);
  for (let match = attribute.exec(tag); match !== null; match = attribute.exec(tag)) {
    const [whole, name = '', quoted = ''] = match;
    const value = missing.get(name);
    missing.delete(name);
    const same = value === undefined || value === element.attributes[name];
    text += same ? whole : `${whole.slice(0, -quoted.length)}'${escapeXml(value)}'`;
  }
  for (const [name, value] of missing) text += ` ${name}='${escapeXml(value)}'`;
  const written = /\s*\/?>$/.exec(tag)?.[0] ?? '>';
  return { start: element.start, end: element.contentStart, text: text + written };
}

/** The white space before an element on its line; empty when something else stands there. */
export function indentOf(xml: string, element: XmlElement): string {
  const line = xml.slice(xml.lastIndexOf('\n', element.start - 1) + 1, element.start);
  return /^[ \t]*$/.test(line) ? line : '';
}
