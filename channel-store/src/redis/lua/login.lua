-- login: enters a session. Under the policy 'reject' it is accepted where nobody else holds the user, or where it shows the
-- proof of a live entry. Only live entries hold somebody off: those that linger have no client any more, and those that are
-- superseded lose theirs. Their connector may have ended, and then nobody removes them before its lease is over. But if somebody
-- else has logged in while the session's own predecessor lingered, it is too late. A login drives nobody out: claim.lua does.
-- A repeated login gets the same answer. Under 'allow' it is refused if the user has as many live sessions as a user may have,
-- those of the same client left out. Refused as a whole when memory is full. Follows restrictions.lua, user.lua.
--
-- KEYS  3 tombstone of the incarnation  4 tombstone of the session  5 restrictions  6… tombstones of the dead incarnations
-- ARGV  2 session  3 incarnation  4 deadline, milliseconds  5 policy  6 proof, or ''
--       7 when the token was made, seconds; '' without a token  8 name of the token, or ''  9 seconds that tombstones last
--       10 the most predecessors to name  11 the most entries under 'allow'  12 the most live sessions under 'allow', or 0
--       13… incarnations that are dead
-- reply { 'done', login rank, others, session, incarnation of each predecessor, … } | { 'taken', incarnation, … }
--       | { 'full', incarnation, … } | { 'unregistered' } | { 'dead' } | { 'late', milliseconds } | { 'closed' }
--       | { 'blocked', milliseconds when it ends, reason } | { 'revoked' }
-- Predecessors are the older entries of the same proof and all lingering ones. Those with the highest ranks come first.
local session, policy, proof = ARGV[2], ARGV[5], ARGV[6]
local refused = refusal(KEYS[3], KEYS[4], ARGV[4], KEYS[5], ARGV[7], ARGV[8])
if refused then return refused end
for i = 13, #ARGV do reap(KEYS[i - 7], ARGV[9], ARGV[i]) end

local own = call('HGET', entries, session)
local rank = own and parsed(own)
local there = others(session)
local predecessors, holders, comes_back, live = {}, {}, false, 0
for _, entry in ipairs(there) do
  local same_client = proof ~= '' and entry.proof == proof
  if entry.state == '0' then
    if same_client then comes_back = true else live = live + 1 end
  end
  -- When a login is repeated, its client may have another session by now. That one came later and is no predecessor.
  local is_newer = rank and tonumber(entry.rank) >= tonumber(rank)
  if entry.state == '2' or same_client and not is_newer then
    predecessors[#predecessors + 1] = entry
  elseif not same_client and entry.state == '0' then
    holders[#holders + 1] = entry
  end
end
if not own and not comes_back then
  local function held(word, entries)
    local reply = { word }
    for i, entry in ipairs(entries) do reply[i + 1] = entry.incarnation end
    return reply
  end
  if policy == 'reject' and holders[1] then return held('taken', holders) end
  if policy == 'allow' then
    -- Each login reads all entries, so a user has a limited number of them. Further sessions can't be resumed or counted.
    local most, is_crowded = tonumber(ARGV[12]), #there >= tonumber(ARGV[11])
    if most > 0 and (live >= most or is_crowded) then return held('full', there) end
    if is_crowded then return { 'unregistered' } end
  end
end

if not rank then
  -- The rank is at least this server's clock in microseconds, so it does not become lower when data is lost.
  local time = call('TIME')
  rank = math.max(tonumber(call('GET', last_rank) or 0) + 1, time[1] * 1000000 + time[2])
  rank = format('%d', rank)
  call('SET', last_rank, rank)
  write(session, rank, ARGV[3], '0', proof)
  remember()
end
table.sort(predecessors, function(a, b) return tonumber(a.rank) > tonumber(b.rank) end)
local reply = { 'done', rank, #there }
for i = 1, math.min(#predecessors, tonumber(ARGV[10])) do
  reply[#reply + 1] = predecessors[i].session
  reply[#reply + 1] = predecessors[i].incarnation
end
return reply
