-- touch: keeps a channel, its log and its members from expiring, and answers where the log ends. It is not flagged
-- no-writes, so a replica refuses it (READONLY). Allowed when memory is full.
--
-- KEYS  1 meta  2 log  3 sessions  4 users  5 detached members  6 incarnations  7 infos
-- ARGV  1 seconds that the log lives, 2 seconds that meta and members live: both where meta doesn't say it (k, see append.lua)
--       3 seconds that a channel lives which has no members, and whose log holds nothing but joins and leaves
-- reply { epoch, offset }, both nil for a channel that does not exist
local m = redis.call('HMGET', KEYS[1], 'e', 'n', 'k', 'b')
local log_life, life = string.match(m[3] or '', '^(%d+) (%d+)$')
log_life, life = log_life or ARGV[1], life or ARGV[2]
if string.match(m[4] or '0', '%d+$') == '0' and redis.call('EXISTS', KEYS[3]) == 0 then
  log_life, life = math.min(log_life, ARGV[3]), math.min(life, ARGV[3])
end
redis.call('EXPIRE', KEYS[2], log_life)
for _, key in ipairs({ KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7] }) do redis.call('EXPIRE', key, life) end
return { m[1], m[2] }
