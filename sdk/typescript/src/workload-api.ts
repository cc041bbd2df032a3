/**
 * The one call of the SPIFFE Workload API that is needed here: `FetchJWTSVID`, unary gRPC over HTTP/2.
 *
 * Made by hand over `node:http2`: a request of a few bytes and an answer of three nested fields are less to get
 * wrong than a gRPC stack is to keep up to date, and the library keeps its promise of no dependencies.
 */
import { connect as connectHttp2, constants, type IncomingHttpHeaders } from "node:http2";
import { connect as connectSocket, type Socket } from "node:net";

const PATH = "/SpiffeWorkloadAPI/FetchJWTSVID";
/** The longest answer that is read, in bytes. */
const LONGEST = 1 << 20;
/** The number of the field `audience` of `JWTSVIDRequest`, and of `svids` and `svid` in the answer. */
const [AUDIENCE, SVIDS, SVID] = [1, 1, 2];

/** Asks the Workload API at `socket` (`unix:///path` or `tcp://ip:port`) for a JWT-SVID. `timeout` is in milliseconds. */
export async function fetchJwtSvid(
  socket: string,
  audience: string,
  timeout: number,
  signal?: AbortSignal,
): Promise<string> {
  const place = parseSocket(socket);
  return await new Promise<string>((resolve, reject) => {
    const session = connectHttp2("http://localhost", { createConnection: (): Socket => connectSocket(place) });
    const fail = (message: string): void => {
      finish();
      reject(new Error(message));
    };
    const timer = setTimeout(() => {
      fail("no answer in time");
    }, timeout);
    const aborted = (): void => {
      fail("it was called off");
    };
    const finish = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
      session.destroy();
    };
    signal?.addEventListener("abort", aborted, { once: true });
    session.on("error", (error: NodeJS.ErrnoException) => {
      fail(error.code ?? "the connection failed");
    });
    const stream = session.request({
      [constants.HTTP2_HEADER_METHOD]: "POST",
      [constants.HTTP2_HEADER_PATH]: PATH,
      "content-type": "application/grpc",
      te: "trailers",
      // Without it the server takes the call for one that a browser was tricked into.
      "workload.spiffe.io": "true",
    });
    const chunks: Buffer[] = [];
    let [length, status, last]: [number, number, IncomingHttpHeaders] = [0, 0, {}];
    stream.on("response", (headers) => {
      status = headers[":status"] ?? 0;
      last = headers;
    });
    stream.on("trailers", (trailers: IncomingHttpHeaders) => {
      last = trailers;
    });
    stream.on("data", (chunk: Buffer) => {
      length += chunk.length;
      chunks.push(chunk);
      if (length > LONGEST) fail("the answer is too long");
    });
    stream.on("error", (error: NodeJS.ErrnoException) => {
      fail(error.code ?? "the call failed");
    });
    stream.on("end", () => {
      if (status !== 200) {
        fail(`it answered ${status}`);
        return;
      }
      const code = String(last["grpc-status"]);
      if (code !== "0") {
        fail(`gRPC status ${code}${code === "7" ? ": no identity is registered for this workload" : ""}`);
        return;
      }
      const svid = readSvid(Buffer.concat(chunks));
      if (svid === undefined) {
        fail("the answer holds no JWT-SVID");
        return;
      }
      finish();
      resolve(svid);
    });
    stream.end(frame(field(AUDIENCE, Buffer.from(audience))));
  });
}

/** What `net.connect` takes, from the forms that SPIFFE names (Workload Endpoint §4). */
function parseSocket(socket: string): { path: string } | { host: string; port: number } {
  const url = new URL(socket);
  if (url.protocol === "unix:" && url.host === "" && url.pathname !== "") return { path: decodeURIComponent(url.pathname) };
  if (url.protocol === "tcp:" && url.hostname !== "" && url.port !== "") {
    return { host: url.hostname.replace(/^\[|\]$/g, ""), port: Number(url.port) };
  }
  throw new Error("write it as unix:///path or tcp://ip:port");
}

/** A gRPC message: not compressed, its length, itself. */
export function frame(message: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

/** A length-delimited field of protobuf. */
export function field(number: number, value: Buffer): Buffer {
  return Buffer.concat([varint((number << 3) | 2), varint(value.length), value]);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) {
      bytes.push(rest);
      return Buffer.from(bytes);
    }
    bytes.push((rest & 0x7f) | 0x80);
  }
}

/** The first `svids[].svid` of an answer. */
function readSvid(body: Buffer): string | undefined {
  if (body.length < 5 || body[0] !== 0 || body.length < 5 + body.readUInt32BE(1)) return undefined;
  const message = body.subarray(5, 5 + body.readUInt32BE(1));
  const svid = find(message, SVIDS);
  return svid === undefined ? undefined : find(svid, SVID)?.toString("utf8");
}

/** The first length-delimited field with this number. */
export function find(message: Buffer, wanted: number): Buffer | undefined {
  let at = 0;
  const read = (): number => {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = message[at++];
      if (byte === undefined) return Number.NaN;
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    return Number.NaN;
  };
  while (at < message.length) {
    const key = read();
    const kind = key & 7;
    if (kind === 0) {
      read();
    } else if (kind === 1) {
      at += 8;
    } else if (kind === 5) {
      at += 4;
    } else if (kind === 2) {
      const length = read();
      if (!(at + length <= message.length)) return undefined;
      if (key >>> 3 === wanted) return message.subarray(at, at + length);
      at += length;
    } else {
      return undefined;
    }
  }
  return undefined;
}
