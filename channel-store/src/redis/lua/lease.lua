-- lease: one incarnation's lease as it stands. Part of every script about it; follows clock.lua.
--
-- KEYS  1 lease (hash: state live, provisional or dead; until: its end, this server's milliseconds)
--       2 index (hash: 'c:' and a channel -> nonce)
-- ARGV  1 seconds both are remembered
local call, format = redis.call, string.format
local lease, index = KEYS[1], KEYS[2]
local held = call('HMGET', lease, 'state', 'until')
local state, ends = held[1], held[2]

local function remember()
  call('EXPIRE', lease, ARGV[1])
  call('EXPIRE', index, ARGV[1])
end

local function write(new, time)
  call('HSET', lease, 'state', new, 'until', format('%d', time))
  remember()
end
