// The state of a stream, put together from events and polls that come late, twice or out of order. No DOM.

const BUSY_SECONDS = 2; // between polls while a run is active: events can stay away
const IDLE_SECONDS = 15;
const MOST_PROMPTS = 500; // the newest that are listed
const LOST_POLLS = 4; // unanswered in a row, after which the server is taken for gone

/** Whether nothing more will be made. */
export function hasEnded(state) {
  return state.phase === "ended" || state.phase === "failed";
}

/** When a run asked for a stream last, in seconds since 1970: its own, or a later one that was given it once more. */
function turnOf(state) {
  return Math.max(state.begun, state.given ?? 0);
}

/** Whether a run was given this stream's video instead of making another. */
export function isGivenAgain(state) {
  return turnOf(state) > state.begun;
}

/** The later of what is known (null: nothing) and what came in; the same object when the message told nothing. */
export function merged(known, message) {
  const told = "prompts" in message ? withAllPrompts(known, message) : message;
  if (!known) return told;
  if (told.session !== known.session) return turnOf(told) > turnOf(known) ? told : known;
  const given = turnOf(told) > turnOf(known) ? told.given : known.given;
  if (given !== known.given) return { ...known, given };
  if (told.sequence < known.sequence) return known;
  // an event leaves the prompts out, so at the same number it tells nothing, and later the old ones stay
  if (told.sequence === known.sequence && !("prompts" in told && lacksPrompts(known))) return known;
  const { prompts, prompts_told } = known;
  return { ...(prompts === undefined ? {} : { prompts, prompts_told }), given, ...told };
}

/** Prompts that need not be told again: of a state, how many took effect up to the last one in its list. */
export function knownPrompts(state) {
  return state.prompts ? state.prompts_told : 0;
}

/** A state with the prompts that came before those in its list, where they are known. */
function withAllPrompts(known, message) {
  const { session, prompts, prompts_before: before = 0, prompt_count: count } = message;
  const earlier = known?.session === session && known.prompts ? known.prompts : [];
  const kept = Math.max(0, before - (known?.prompts_told ?? 0) + earlier.length);
  return { ...message, prompts: [...earlier.slice(0, kept), ...prompts].slice(-MOST_PROMPTS), prompts_told: count };
}

/** Whether the whole state must be asked for at once: an event told of prompts that are not here yet. */
export function lacksPrompts(state) {
  return state.prompts_told !== state.prompt_count;
}

/** Seconds until the next poll; `busy` of them while a stream runs, or while one is awaited. */
export function pollRest(state, seen, lost, { busy = BUSY_SECONDS, awaited = false } = {}) {
  if (lost > 0) return Math.min(IDLE_SECONDS, BUSY_SECONDS * 2 ** (lost - 1));
  return ((state && !hasEnded(state)) || awaited) && seen ? busy : IDLE_SECONDS;
}

/** Whether so many polls in a row stayed unanswered that the server must be taken for gone. */
export function isGone(lost) {
  return lost >= LOST_POLLS;
}

/** Whether the list of streams is asked for, and not one stream: none is known, or the known one has ended. */
export function asksForList(state) {
  return !state || (hasEnded(state) && !lacksPrompts(state));
}

/**
 * The stream to show in a node: of those that this client queued, or that a run of it was given once more, the one that was
 * asked for last, or null.
 */
export function ownStream(place, { streams, own, given = [] }) {
  const again = given.map(({ session, workflow, at }) => {
    const stream = streams.find((each) => each.session === session);
    return { ...stream, workflow, given: at };
  });
  const queued = streams.filter((each) => own.includes(each.session));
  return latest([...queued, ...again].filter((each) => isHere(each, place)));
}

/**
 * What another client made with this node of the same workflow, to be offered: what is made just now, else the last video;
 * or null.
 */
export function othersStream(place, { streams, own }) {
  const here = (each) => !own.includes(each.session) && each.workflow !== "" && isHere(each, place);
  const others = streams.filter(here);
  return latest(others.filter((each) => !hasEnded(each))) ?? latest(others.filter((each) => each.video));
}

/**
 * Whether a stream is made by the node at a place, {node, workflow}. Inside subgraphs the server knows the node by its
 * path ("12:7") and the page may know only the last step.
 */
export function isHere(state, { node, workflow }) {
  const [path, id] = [String(state.node), String(node)];
  const sameNode = path === id || (!id.includes(":") && path.split(":").at(-1) === id);
  // a run that names no workflow is taken by its node: who queued it is known
  return sameNode && (state.workflow === "" || state.workflow === workflow);
}

function latest(streams) {
  return streams.reduce((last, each) => (!last || turnOf(each) > turnOf(last) ? each : last), null);
}
