/**
 * XML as a tree that knows where in the text each element stands, so that one part can be replaced and the
 * rest stays as it is, byte for byte.
 *
 * What is not well-formed is refused, and so is every document type: libvirt writes none, and entities are
 * how XML attacks its reader.
 */
import { SaxesParser } from 'saxes';

export interface XmlElement {
  /** As written, with its prefix. */
  readonly name: string;
  readonly local: string;
  /** Namespace, or empty. */
  readonly uri: string;
  /** Under their names as written. */
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly XmlElement[];
  /** Character data directly inside, joined. */
  readonly text: string;
  /** Offsets in the text: of `<`, behind the start tag, of the end tag, behind the end tag. */
  readonly start: number;
  readonly contentStart: number;
  readonly contentEnd: number;
  readonly end: number;
}

/** The longest string that libvirt itself passes on (VIR_NET_MESSAGE_STRING_MAX). */
const maxLength = 4 * 1024 * 1024;
const maxElements = 100_000;
const maxDepth = 200;

type Open = { -readonly [Key in keyof XmlElement]: XmlElement[Key] } & { children: XmlElement[] };

/** The root element. `what` names the document in errors.
 * @throws Error with line and column for what is not well-formed, and for a document type. */
export function parseXml(xml: string, what: string): XmlElement {
  if (xml.length > maxLength) {
    throw new Error(`${what} has ${xml.length} characters; libvirt's own limit is ${maxLength}`);
  }
  const parser = new SaxesParser({ xmlns: true, position: true });
  const fail = (reason: string): never => {
    throw new Error(`${what} is refused, line ${parser.line}, column ${parser.column}: ${reason}`);
  };
  const open: Open[] = [];
  let root: Open | undefined;
  let elements = 0;
  let start = 0;
  parser.on('error', (error) => fail(error.message.replace(/^\d+:\d+: /, '')));
  parser.on('doctype', () => fail('it has a document type (<!DOCTYPE>), which no domain has'));
  parser.on('opentagstart', () => {
    start = xml.lastIndexOf('<', parser.position - 1);
  });
  parser.on('opentag', (tag) => {
    elements += 1;
    if (elements > maxElements) fail(`more than ${maxElements} elements`);
    if (open.length >= maxDepth) fail(`elements nested deeper than ${maxDepth}`);
    const element: Open = {
      name: tag.name,
      local: tag.local,
      uri: tag.uri,
      attributes: Object.fromEntries(
        Object.entries(tag.attributes).map(([name, attribute]) => [name, attribute.value]),
      ),
      children: [],
      text: '',
      start,
      contentStart: parser.position,
      contentEnd: parser.position,
      end: parser.position,
    };
    (open.at(-1)?.children as XmlElement[] | undefined)?.push(element);
    root ??= element;
    open.push(element);
  });
  parser.on('closetag', (tag) => {
    const element = open.pop();
    if (element === undefined) return;
    element.end = parser.position;
    element.contentEnd = tag.isSelfClosing ? element.end : xml.lastIndexOf('</', element.end - 1);
  });
  const addText = (text: string): void => {
    const element = open.at(-1);
    if (element !== undefined) element.text += text;
  };
  parser.on('text', addText);
  parser.on('cdata', addText);
  parser.write(xml).close();
  return root ?? fail('it is empty');
}

/** The child elements of that name, in order. */
export function childrenOf(element: XmlElement, name: string): XmlElement[] {
  return element.children.filter((child) => child.name === name);
}

/** The first element at the end of a path of names. */
export function find(element: XmlElement, ...path: readonly string[]): XmlElement | undefined {
  return path.reduce<XmlElement | undefined>(
    (at, name) => at?.children.find((child) => child.name === name),
    element,
  );
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&apos;',
};

/** The text, fit for character data and for attributes in either quotes.
 * @throws Error for a character that XML cannot hold. */
export function escapeXml(text: string): string {
  // Control characters other than tab, newline and return, lone surrogates and the last two of the plane are
  // not XML.
  if (/[^\t\n\r\u0020-\uFFFD]|\p{Cs}/u.test(text.replace(/[\u{10000}-\u{10FFFF}]/gu, ''))) {
    throw new Error(`${JSON.stringify(text.slice(0, 200))} holds a character that XML cannot hold`);
  }
  return text.replace(
    /[&<>"'\t\n\r]/g,
    (character) => entities[character] ?? `&#${character.codePointAt(0)};`,
  );
}
