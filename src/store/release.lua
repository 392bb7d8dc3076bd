-- The end of a claim on tags. KEYS as when it was made. ARGV: its name. Gives {1, 0}.
for at = 1, #KEYS, 2 do
  if redis.call('GET', KEYS[at]) == ARGV[1] then redis.call('DEL', KEYS[at]) end
  redis.call('ZREM', KEYS[at + 1], ARGV[1])
end
return {1, 0}
