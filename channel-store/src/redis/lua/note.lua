-- note: writes channels into one part of the directory, with the time of this sign of life, and publishes the names of those
-- that were not there. It may come late, twice, or be lost: the directory is a hint, and who reads it looks at each channel.
--
-- KEYS  1 names (zset: name -> 0, so that the names are in the order of their bytes)
--       2 times (zset: name -> when the channel was noted last, this server's seconds)  3 topic of new names
-- ARGV  1 PUBLISH or SPUBLISH  2 seconds after which the part is forgotten if nothing is noted in it  3… names
local now = redis.call('TIME')[1]
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[2], now, ARGV[i])
  if redis.call('ZADD', KEYS[1], 0, ARGV[i]) == 1 then redis.call(ARGV[1], KEYS[3], ARGV[i]) end
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
