-- login: enters a session. Under 'reject' it is let in where nobody else holds the user, or where it shows the proof of
-- a live entry. Lingering entries, and superseded ones of its own proof, hold nobody off; but if somebody else has come
-- while its own one lingered, it is too late. It drives nobody out: that is claim's. Repeated, it answers the same.
-- Without flags: refused as a whole when it could not be stored. Follows user.lua.
--
-- KEYS  3 tombstone of the incarnation  4 tombstone of the session  5… tombstones of the buried
-- ARGV  2 session  3 incarnation  4 deadline, milliseconds  5 policy  6 proof, or ''  7 seconds that tombstones stand
--       8 predecessors to name at most  9 entries at most under 'allow'  10… incarnations that are dead
-- reply { 'done', generation, others, session, incarnation of each predecessor, … } | { 'taken', incarnation, … }
--       | { 'unregistered' } | { 'dead' } | { 'late', milliseconds } | { 'closed' }
-- Predecessors are the older entries of the same proof and all lingering ones, those with the highest generations first.
local session, policy, proof = ARGV[2], ARGV[5], ARGV[6]
local refused = refusal(KEYS[3], KEYS[4], ARGV[4])
if refused then return refused end
for i = 10, #ARGV do bury(KEYS[i - 5], ARGV[7], ARGV[i]) end

local own = call('HGET', entries, session)
local generation = own and parsed(own)
local there = others(session)
local predecessors, holders, comes_back = {}, {}, false
for _, entry in ipairs(there) do
  local is_kin = proof ~= '' and entry.proof == proof
  if is_kin and entry.state == '0' then comes_back = true end
  -- When a login is repeated, its client may have another session by now, which came later and is no predecessor.
  local is_newer = generation and tonumber(entry.generation) >= tonumber(generation)
  if entry.state == '2' or is_kin and not is_newer then
    predecessors[#predecessors + 1] = entry
  elseif not is_kin then
    holders[#holders + 1] = entry
  end
end
if not own and not comes_back then
  if policy == 'reject' and holders[1] then
    local reply = { 'taken' }
    for i, entry in ipairs(holders) do reply[i + 1] = entry.incarnation end
    return reply
  end
  -- Each login reads all entries. Where everybody may log in, a user with very many sessions has some that can't resume.
  if policy == 'allow' and #there >= tonumber(ARGV[9]) then return { 'unregistered' } end
end

if not generation then
  -- At least this server's clock in microseconds: so that it does not go back when data is lost.
  local time = call('TIME')
  generation = math.max(tonumber(call('GET', given) or 0) + 1, time[1] * 1000000 + time[2])
  generation = format('%d', generation)
  call('SET', given, generation)
  write(session, generation, ARGV[3], '0', proof)
  remember()
end
table.sort(predecessors, function(a, b) return tonumber(a.generation) > tonumber(b.generation) end)
local reply = { 'done', generation, #there }
for i = 1, math.min(#predecessors, tonumber(ARGV[8])) do
  reply[#reply + 1] = predecessors[i].session
  reply[#reply + 1] = predecessors[i].incarnation
end
return reply
