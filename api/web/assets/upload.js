// Sends a file ahead by tus (https://tus.io), in pieces; what breaks off goes on where it stopped,
// after a reload too.

import { Refusal, send } from "./service.js";

const PIECE = 8 * 2 ** 20;
const MAX_FAILURES = 8;
const GONE = [404, 410];
const TUS = { "Tus-Resumable": "1.0.0" };

// Returns the id and the SHA-256 of the file as it arrived. `told` hears how many bytes are there.
export async function upload(file, told, signal) {
  if (!file.size) throw new Error(`${file.name} is empty.`);
  const memory = `momentum-upload ${file.name} ${file.size} ${file.lastModified}`;
  let place = localStorage.getItem(memory);
  let offset = place ? await received(place, file.size, signal) : null;
  if (offset === null) {
    const made = await send("POST", "/uploads", { headers: { ...TUS, "Upload-Length": String(file.size) }, signal });
    place = `/uploads/${made.headers.get("Location").split("/").pop()}`;
    localStorage.setItem(memory, place);
    offset = 0;
  }
  let failures = 0;
  told(offset);
  while (offset < file.size) {
    try {
      offset = await sendPiece(place, file.slice(offset, offset + PIECE), offset, signal);
      failures = 0;
    } catch (error) {
      if (!(error instanceof Refusal) || !isPassing(error)) {
        if (GONE.includes(error.status)) localStorage.removeItem(memory);
        throw error;
      }
      failures += 1;
      if (failures > MAX_FAILURES) throw new Error(`${error.message} Choose the file again to go on where it stopped.`);
      told(offset, `the connection broke, trying again (${failures})`);
      await new Promise((resume) => setTimeout(resume, Math.min(500 * 2 ** failures, 15000)));
      offset = (await received(place, file.size, signal).catch(() => offset)) ?? offset;
    }
    told(offset);
  }
  return (await send("GET", place, { signal })).json();
}

async function sendPiece(place, piece, offset, signal) {
  const headers = { ...TUS, "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
  if (crypto.subtle) { // browsers have it on https and on this machine only
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await piece.arrayBuffer()));
    headers["Upload-Checksum"] = `sha256 ${btoa(String.fromCharCode(...digest))}`;
  }
  const answer = await send("PATCH", place, { body: piece, headers, signal });
  return Number(answer.headers.get("Upload-Offset"));
}

// How many bytes are there; null if the service knows nothing of them.
async function received(place, size, signal) {
  try {
    const answer = await send("HEAD", place, { headers: TUS, signal });
    return Number(answer.headers.get("Upload-Length")) === size ? Number(answer.headers.get("Upload-Offset")) : null;
  } catch (error) {
    if (error instanceof Refusal && GONE.includes(error.status)) return null;
    throw error;
  }
}

// Whether the same may work in a moment: no answer, too busy, another offset, a piece that was damaged.
function isPassing(error) {
  return [0, 408, 409, 423, 429, 460, 500, 502, 503, 504].includes(error.status);
}
