-- user: one user's entries as they stand. Part of every script about them; follows clock.lua.
--
-- KEYS  1 entries (hash: session -> generation, incarnation, state, proof: four lines)
--       2 the last generation given
-- ARGV  1 seconds both are remembered
-- The state is 0 live, 1 superseded (its connector is to close the socket), 2 lingering (its client is gone, and it is
-- still a member for a while). The proof is what the client's secret makes, or empty.
local call, format = redis.call, string.format
local entries, given = KEYS[1], KEYS[2]

local function parsed(entry)
  return string.match(entry, '^(%d+)\n([^\n]*)\n([012])\n(%x*)$')
end

local function write(session, generation, incarnation, state, proof)
  call('HSET', entries, session, table.concat({ generation, incarnation, state, proof }, '\n'))
end

-- Entries other than a session's own.
local function others(session)
  local found, all = {}, call('HGETALL', entries)
  for i = 1, #all, 2 do
    if all[i] ~= session then
      local generation, incarnation, state, proof = parsed(all[i + 1])
      found[#found + 1] =
        { session = all[i], generation = generation, incarnation = incarnation, state = state, proof = proof }
    end
  end
  return found
end

-- A user without entries is remembered only as long as tombstones stand. After that no copy of a login or claim is under
-- way any more, and new generations are higher by the clock alone.
local function forget_if_gone(seconds)
  if call('EXISTS', entries) == 0 then call('EXPIRE', given, seconds) end
end

-- Takes an incarnation's entries away, after its tombstone is set: whatever of it is under way comes too late.
local function bury(tombstone, seconds, incarnation)
  local removed = 0
  call('SET', tombstone, '1', 'EX', seconds)
  for _, entry in ipairs(others()) do
    if entry.incarnation == incarnation then removed = removed + call('HDEL', entries, entry.session) end
  end
  forget_if_gone(seconds)
  return removed
end

local function remember()
  -- Without entries there is nothing to remember the generation for: see forget_if_gone.
  if call('EXPIRE', entries, ARGV[1]) == 1 then call('EXPIRE', given, ARGV[1]) end
end

-- Why a login or claim is refused, if it is.
local function refusal(dead, closed, deadline)
  if call('EXISTS', dead) == 1 then return { 'dead' } end
  local now = milliseconds()
  if now > tonumber(deadline) then return { 'late', now } end
  if call('EXISTS', closed) == 1 then return { 'closed' } end
end
